"""The second stage of a discrete autoencoder: a transformer over its codes, from which new images are drawn."""

import math
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from vqlab.errors import UserError
from vqlab.metrics.codes.unigram import unigram_bits
from vqlab.models.model import Model, evaluating
from vqlab.models.prior.tokenizer import CodeCache, check_data, find_tokenizer
from vqlab.nn import ImageFormat, Transformer
from vqlab.nn.distributed import all_gather_rows
from vqlab.nn.frozen import Frozen
from vqlab.nn.precision import like_weights, upcast, without_autocast
from vqlab.samplers.tokens import generate
from vqlab.training.batches import passed_on
from vqlab.training.finite import require_finite
from vqlab.training.optimization import Optimization
from vqlab.validation import Count, NonNegativeInt, Positive, Probability

MAX_COUNTS = 2**24  # cells of the table behind val/unigram_bits: 64 MiB


class CodePrior(Model):
    """An autoregressive transformer over the codes of a frozen tokenizer, with labels or without.

    Second stage of VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937, section 3.2), as a transformer (Esser et al.
    2021, arXiv:2012.09841, section 3.2). The codes of an image are one sequence: row by row, a pyramid coarse to fine,
    and with several codebooks all codes of a position before the next position.

    The checkpoint holds the tokenizer, weights and all. ``label_dropout`` of the labels are hidden in training, which
    classifier-free guidance needs. ``val/nll`` is in nats per token; ``val/bits_per_token`` the same in bits;
    ``val/bits_per_dim`` in bits of code per number of the image; ``val/unigram_bits`` the bits per token by the
    frequencies of each position over the training tokens so far, which a prior must beat.

    Args:
        tokenizer: Checkpoint of a first stage, or of a prior; or a model with ``encode``, ``decode``, ``quantizer`` and
            ``images``, an ``ImageFormat``.
        conditional: Learn p(codes | label).
        label_dropout: Fraction of labels hidden in training.
        dim: Width of the transformer.
        depth: Blocks.
        heads: Attention heads.
        mlp_ratio: Hidden width of the MLPs, in units of ``dim``.
        dropout: Probability of dropping an embedding or an output of a block.
        lr: Absolute learning rate. Default without ``base_lr``: 3e-4.
        base_lr: Rate per image: lr = base_lr x batch_size x devices x nodes x accumulation. Give one of the two.
        optimization: Optimizer settings; weight decay is of matrices, none on embeddings and norms.
        images: Format of the data, to be checked against the tokenizer's; the command line takes it from the data.
        num_classes: Number of labels; the command line takes it from the data.

    Shape:
        images (B, C, H, W) in the tokenizer's value range; codes as its ``encode`` returns them, (B, h, w) or with more
        axes; tokens, the same flat, (B, L) int64.

    Raises:
        UserError: If the tokenizer is no tokenizer, the data differ from its data, labels are missing, or a size does
            not fit.

    Example:
        >>> from vqlab.models.vq.vqvae import VQVAE
        >>> prior = CodePrior(VQVAE(), conditional=True, dim=32, depth=1, heads=2, num_classes=10)
        >>> tuple(prior.eval().sample(2, label=3, top_k=100, guidance=1.5).shape)
        (2, 3, 32, 32)
    """

    modality = "image"
    default_lr = 3e-4

    def __init__(
        self,
        tokenizer: str | Path | lightning.LightningModule | None = None,
        conditional: bool = False,
        label_dropout: Probability = 0.1,
        dim: Count = 512,
        depth: Count = 12,
        heads: Count = 8,
        mlp_ratio: Positive = 4.0,
        dropout: Probability = 0.1,
        lr: Positive | None = None,
        base_lr: Positive | None = None,
        optimization: Optimization = Optimization(betas=(0.9, 0.95), weight_decay=0.05),
        images: ImageFormat | None = None,
        num_classes: NonNegativeInt | None = None,
    ) -> None:
        net = find_tokenizer(tokenizer)
        self.init_args["tokenizer"] = net  # a checkpoint describes the tokenizer, and does not name a file
        super().__init__()
        check_data(net, images)
        self.images, self.value_range = net.images, net.images.value_range
        if conditional and not num_classes:
            raise UserError("conditional must be false for data without labels, got true")
        self.conditional, self.label_dropout = conditional, label_dropout
        self.num_classes = num_classes if conditional and num_classes else 0
        self.optimization = optimization
        self.tokenizer = Frozen(net, saved=True)
        with torch.no_grad():
            self.code_shape = tuple(net.encode(torch.zeros(1, *self.images.shape)).shape[1:])
        length, codes = math.prod(self.code_shape), net.quantizer.num_embeddings
        books = getattr(net.quantizer, "num_codebooks", 1)
        self.network = Transformer(codes, length, self.num_classes, books, dim, depth, heads, mlp_ratio, dropout)
        self.counts: Tensor | None  # how often each position had each code in training, all ranks
        countable = length * codes <= MAX_COUNTS
        self.register_buffer("counts", torch.zeros(length, codes, dtype=torch.int32) if countable else None)
        self._cache: CodeCache | None = None

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to the tokenizer's codes (B, h, w)."""
        # In float32 whatever the precision of the training, so that codes are those that the tokenizer was trained on.
        with torch.no_grad(), without_autocast(x.device):
            return self._net.encode(like_weights(upcast(x), self._net))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) to images (B, C, H, W) in the value range."""
        with torch.no_grad(), without_autocast(self.device):
            return like_weights(self._net.decode(codes), self.network)

    def sample(
        self,
        num: int,
        label: int | Tensor | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw images (num, C, H, W) in the value range; arguments and errors as in :meth:`sample_codes`."""
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
        return self.decode(self.sample_codes(num, label, generator=generator, **options))

    def sample_codes(self, num: int, label: int | Tensor | None = None, **options: Any) -> Tensor:
        """Draw codes (num, h, w), of one ``label`` or (num,) labels, by default of all classes.

        The options, ``temperature`` and others, are those of :func:`vqlab.samplers.tokens.generate`.

        Raises:
            UserError: If an argument is out of range, or a label is given to a model without labels.
        """
        if num < 1:
            raise UserError(f"num must be at least 1, got {num}: use --num 64")
        condition = self._condition_of(num, label)
        guidance = options.get("guidance", 1)
        if guidance != 1 and label is None:
            raise UserError(f"guidance {guidance} needs a label to be guided to: add --label, or leave --guidance out")
        with evaluating(self):
            return generate(self.network, condition, **options).unflatten(1, self.code_shape)

    def nll(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Negative log-likelihood (B,), in nats, of the codes of images (B, C, H, W) given labels (B,)."""
        return self._losses(self.encode(x).flatten(1), self._as_condition(label, len(x))).sum(1)

    def prepare_data(self) -> None:
        """Fetch nothing: of the tokenizer's parts encoder, quantizer and decoder alone are used."""

    def on_fit_start(self) -> None:
        """Decide whether an image's codes are computed once."""
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        once = getattr(datamodule, "augment", True) is False  # else an index may have another image at the next visit
        self._cache = CodeCache(self.network.num_tokens) if once else None
        rank_zero_info(
            "codes: each training image is encoded once (the data do not augment)"
            if once
            else "codes: each training batch is encoded anew (the data augment, or do not say that they do not)"
        )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Predict each token from those before it."""
        tokens = self._training_tokens(batch)
        condition = self._as_condition(batch.get("label"), len(tokens))
        if self.conditional:
            hidden = torch.rand(len(tokens), device=self.device) < self.label_dropout
            condition = condition.masked_fill(hidden, self.network.no_label)
        loss = self._losses(tokens, condition).mean()
        require_finite({"loss": loss}, batch_idx, self.global_step)
        self._count(tokens)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW; weight decay on the matrices of the blocks and of the head."""
        embeddings = {self.network.label.weight, self.network.token.weight, self.network.position.weight}
        weights = list(self.network.parameters())
        decayed = [p for p in weights if p.ndim == 2 and p not in embeddings]
        others = [p for p in weights if p.ndim != 2 or p in embeddings]
        groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        return self.optimization.optimizer(self, groups, "prior")

    def evaluate(self, batch: dict[str, Tensor], stage: str) -> None:
        """Log the likelihood of the codes of a batch, and that by a model without context."""
        tokens = self.encode(batch["image"]).flatten(1)
        nll = self._losses(tokens, self._as_condition(batch.get("label"), len(tokens))).mean()
        bits = nll / math.log(2)
        metrics = {"loss": nll, "nll": nll, "bits_per_dim": bits * tokens.shape[1] / math.prod(self.images.shape)}
        if self.counts is not None:
            metrics["unigram_bits"] = unigram_bits(self.counts, tokens)
        self.log_means(stage, metrics, len(tokens))
        self.log_means(stage, {"bits_per_token": bits}, len(tokens), prog_bar=True)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return ``nll`` (B,) in nats per image, with the batch's ``label`` and ``index``."""
        return {"nll": self.nll(batch["image"], batch.get("label")), **passed_on(batch, "label", "index")}

    def example_images(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return as many samples (B, C, H, W) in [0, 1] as the batch has images: the same seed each time, by label."""
        num = len(batch["image"])
        label = torch.arange(num) % self.num_classes if self.conditional else None
        generator = torch.Generator().manual_seed(0)  # its own, so that the training's draws stay as they are
        return {"sample": self.value_range.decode(self.sample(num, label, generator=generator))}

    @property
    def _net(self) -> Any:
        return self.tokenizer.net

    def _losses(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """-ln p(token | label, tokens before), (B, L)."""
        logits = self.network(tokens[:, :-1], condition).float()
        return F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens)

    def _training_tokens(self, batch: dict[str, Tensor]) -> Tensor:
        if self._cache is None or "index" not in batch:
            return self.encode(batch["image"]).flatten(1)
        return self._cache.get(batch["index"], lambda: self.encode(batch["image"]).flatten(1))

    def _count(self, tokens: Tensor) -> None:
        if self.counts is not None:
            every = all_gather_rows(tokens).T  # of all ranks, so that all keep the same counts
            self.counts.scatter_add_(1, every, torch.ones_like(every, dtype=self.counts.dtype))

    def _as_condition(self, label: Tensor | None, num: int) -> Tensor:
        """Return labels (num,), negative where unknown, or None, as the network's conditions."""
        if label is None or not self.conditional:
            return torch.full((num,), self.network.no_label, device=self.device)
        return torch.where(label < 0, self.network.no_label, label)

    def _condition_of(self, num: int, label: int | Tensor | None) -> Tensor:
        """Return labels (num,) for sampling, on the model's device."""
        if label is None:
            return self._as_condition(None, num)
        if not self.conditional:
            raise UserError(
                f"label {label} is given to a model without labels: leave --label out, or train with "
                "--model.conditional=true"
            )
        labels = torch.as_tensor(label, device=self.device).long()
        if labels.ndim and labels.shape != (num,):
            raise UserError(f"label must be one number or {num}, got shape {tuple(labels.shape)}: change label or num")
        labels = labels.expand(num)
        if int(labels.min()) < 0 or int(labels.max()) >= self.num_classes:
            raise UserError(f"label must lie in 0 .. {self.num_classes - 1}, got {label}: change --label")
        return labels
