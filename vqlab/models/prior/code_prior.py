"""The second stage of a discrete autoencoder: an autoregressive transformer over its codes."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.metrics.codes import unigram_bits
from vqlab.models.model import Model, evaluating
from vqlab.nn import DepthTransformer, ImageFormat, Transformer
from vqlab.nn.distributed import all_gather_rows
from vqlab.nn.frozen import Frozen
from vqlab.nn.precision import like_weights, upcast, without_autocast
from vqlab.samplers import generate
from vqlab.training import Optimization, load
from vqlab.training.batches import passed_on
from vqlab.training.steps import require_finite
from vqlab.validation import Count, NonNegativeInt, Positive, Probability

TOKENIZER = ("encode", "decode", "quantizer", "images")  # attributes of a tokenizer
MAX_COUNTS = 2**24  # entries of the table for val/unigram_bits: 64 MiB


class CodePrior(Model):
    """An autoregressive transformer over the codes of a frozen tokenizer, with labels or without.

    Second stage of VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937, section 3.2), as a transformer (Esser et al.
    2021, arXiv:2012.09841, section 3.2). The codes of an image are one sequence of tokens (B, L): row by row, a pyramid
    coarse to fine, and with several codebooks all codes of a position before the next. The checkpoint contains the
    tokenizer. ``val/nll`` is in nats per token, ``val/bits_per_token`` in bits, ``val/bits_per_dim`` in bits of code
    per pixel and channel. ``val/unigram_bits`` is the baseline: the bits per token of a model that knows only the
    frequencies of the codes at each position so far in training.

    Args:
        tokenizer: Checkpoint of a tokenizer or prior, or model with ``encode``, ``decode``, ``quantizer``, ``images``.
        conditional: Model p(codes | label).
        label_dropout: Fraction of labels dropped in training; classifier-free guidance needs it.
        dim: Width of the transformer.
        depth: Blocks.
        heads: Attention heads.
        mlp_ratio: Hidden width of the MLPs, in units of ``dim``.
        dropout: Probability of dropping an embedding or an output of a block.
        depth_blocks: Blocks of a :class:`~vqlab.DepthTransformer`, for tokenizers with several codes per position;
            0 models all codes of all positions as one sequence.
        lr: Absolute learning rate. Default without ``base_lr``: 3e-4.
        base_lr: Rate per image: lr = base_lr x batch_size x devices x nodes x accumulation. Give one of the two.
        optimization: Optimizer settings; weight decay applies to matrices only, not to embeddings and norms.
        images: Format of the data, which must equal the tokenizer's; the command line takes it from the data.
        num_classes: Number of labels; the command line takes it from the data.

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
        depth_blocks: NonNegativeInt = 0,
        lr: Positive | None = None,
        base_lr: Positive | None = None,
        optimization: Optimization = Optimization(betas=(0.9, 0.95), weight_decay=0.05),
        images: ImageFormat | None = None,
        num_classes: NonNegativeInt | None = None,
    ) -> None:
        net = find_tokenizer(tokenizer)
        self.init_args["tokenizer"] = net  # so that a checkpoint describes the tokenizer, instead of naming a file
        super().__init__()
        check_data(net, images)
        self.images, self.value_range = net.images, net.images.value_range
        if conditional and not num_classes:
            raise UserError("conditional must be false for data without labels, got true")
        self.conditional, self.label_dropout, self.optimization = conditional, label_dropout, optimization
        self.num_classes = num_classes if conditional and num_classes else 0
        self.tokenizer: Any = Frozen(net, saved=True)
        with torch.no_grad():
            self.code_shape = tuple(net.encode(torch.zeros(1, *self.images.shape)).shape[1:])
        length, codes = math.prod(self.code_shape), net.quantizer.num_embeddings
        books = getattr(net.quantizer, "num_codebooks", 1)
        sizes = (codes, length, self.num_classes, books, dim, depth, heads, mlp_ratio, dropout)
        self.network: Transformer | DepthTransformer
        self.network = DepthTransformer(*sizes, depth_blocks) if depth_blocks else Transformer(*sizes)
        self.counts: Tensor | None  # how often each code was at each position in training, summed over ranks
        countable = length * codes <= MAX_COUNTS
        self.register_buffer("counts", torch.zeros(length, codes, dtype=torch.int32) if countable else None)
        self._cache: CodeCache | None = None

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to the tokenizer's codes (B, h, w)."""
        with torch.no_grad(), without_autocast(x.device):  # in float32, so that codes do not depend on the precision
            return self.tokenizer.net.encode(like_weights(upcast(x), self.tokenizer.net))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) to images (B, C, H, W) in the value range."""
        with torch.no_grad(), without_autocast(self.device):
            return like_weights(self.tokenizer.net.decode(codes), self.network)

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
        """Draw images (num, C, H, W) in the value range, of one ``label`` or (num,) labels, by default of all."""
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
        return self.decode(self.sample_codes(num, label, generator=generator, **options))

    def sample_codes(self, num: int, label: int | Tensor | None = None, **options: Any) -> Tensor:
        """Draw codes (num, h, w); options as in :func:`~vqlab.samplers.tokens.generate`, ``label`` as in ``sample``."""
        condition = self._as_condition(None, num)
        if label is not None:
            if not self.conditional:
                raise UserError("label needs a conditional prior: leave --label out, or set --model.conditional=true")
            labels = torch.as_tensor(label, device=self.device).long()
            if labels.shape not in ((), (num,)) or labels.min() < 0 or labels.max() >= self.num_classes:
                rule = f"label must be one number or {num} numbers in 0 .. {self.num_classes - 1}"
                raise UserError(f"{rule}, got {labels.tolist()!s:.60}: change --label")
            condition = labels.expand(num)
        elif (guidance := options.get("guidance", 1)) != 1:
            raise UserError(f"guidance {guidance} needs a label: add --label, or leave --guidance out")
        with evaluating(self):
            return generate(self.network, condition, **options).unflatten(1, self.code_shape)

    def nll(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Negative log-likelihood (B,), in nats, of the codes of images (B, C, H, W) given labels (B,)."""
        return self._losses(self.encode(x).flatten(1), self._as_condition(label, len(x))).sum(1)

    def prepare_data(self) -> None:
        """Download nothing: the losses and metrics of the tokenizer are not used."""

    def on_fit_start(self) -> None:
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        once = getattr(datamodule, "augment", True) is False  # otherwise the image of an index may change
        self._cache = CodeCache(self.network.num_tokens) if once else None
        how = "image once (augment is false)" if once else "batch again (augment is true or unknown)"
        rank_zero_info(f"codes: encoding each training {how}")

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Predict each token from the previous ones."""
        if self._cache is not None and "index" in batch:
            tokens = self._cache.get(batch["index"], lambda: self.encode(batch["image"]).flatten(1))
        else:
            tokens = self.encode(batch["image"]).flatten(1)
        condition = self._as_condition(batch.get("label"), len(tokens))
        if self.conditional:
            hidden = torch.rand(len(tokens), device=self.device) < self.label_dropout
            condition = condition.masked_fill(hidden, self.network.no_label)
        loss = self._losses(tokens, condition).mean()
        require_finite({"loss": loss}, batch_idx, self.global_step)
        if self.counts is not None:
            every = all_gather_rows(tokens).T  # all ranks have the same counts
            self.counts.scatter_add_(1, every, torch.ones_like(every, dtype=self.counts.dtype))
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        embeddings = {part.weight for part in self.network.modules() if isinstance(part, nn.Embedding)}
        decayed = [p for p in self.network.parameters() if p.ndim == 2 and p not in embeddings]
        others = [p for p in self.network.parameters() if p.ndim != 2 or p in embeddings]
        groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        return self.optimization.optimizer(self, groups, "prior")

    def evaluate(self, batch: dict[str, Tensor], stage: str) -> None:
        """Log the negative log-likelihood of the codes of a batch, and the unigram baseline."""
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
        """Return a ``sample`` (B, C, H, W) in [0, 1] of the size of the batch, always of the same seed."""
        num = len(batch["image"])
        label = torch.arange(num) % self.num_classes if self.conditional else None
        generator = torch.Generator().manual_seed(0)  # separate, so that the draws of the training do not change
        return {"sample": self.value_range.decode(self.sample(num, label, generator=generator))}

    def _losses(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """Return -ln p(token | label, previous tokens) (B, L)."""
        logits = self.network(tokens[:, :-1], condition).float()
        return F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens)

    def _as_condition(self, label: Tensor | None, num: int) -> Tensor:
        """Return the network's conditions (num,) for labels (num,), negative where unknown, or for None."""
        if label is None or not self.conditional:
            return torch.full((num,), self.network.no_label, device=self.device)
        return torch.where(label < 0, self.network.no_label, label)


def find_tokenizer(source: Any) -> Any:
    """Return the model ``source``, or that of a checkpoint at this path; of a prior its tokenizer."""
    if source is None:
        raise UserError("tokenizer must be a trained model or a checkpoint such as runs/vqvae/.../best.ckpt, got None")
    model: Any = load(source) if isinstance(source, (str, Path)) else source
    if hasattr(model, "tokenizer"):
        model = model.tokenizer.net
    if missing := [name for name in TOKENIZER if not hasattr(model, name)]:
        found = f"{type(model).__name__} is no tokenizer, it has no {', '.join(missing)}"
        raise UserError(f"{found}: set tokenizer to a checkpoint of a VQVAE, VQGAN or JSA")
    return model


def check_data(tokenizer: Any, images: ImageFormat | None) -> None:
    """Raise UserError if the data's format, if it is known, is not that of the ``tokenizer``."""
    own: ImageFormat = tokenizer.images
    if images is None:
        return
    for name, given, trained, hint in (
        ("channels", images.channels, own.channels, "use the data that it was trained on"),
        ("image_size", images.size, own.size, f"set image_size={own.size}"),
        ("value_range", images.value_range.kind, own.value_range.kind, f"set value_range={own.value_range.kind}"),
        ("value_range", images.value_range, own.value_range, "use the data that it was trained on"),
    ):
        if given != trained:
            raise UserError(f"{name} is {given}, the tokenizer's is {trained}: {hint}")


class CodeCache:
    """Codes by position in the data set, in CPU memory: 2 bytes per code up to K = 32,768, otherwise 4."""

    def __init__(self, num_embeddings: int) -> None:
        self.dtype = torch.int16 if num_embeddings <= 2**15 else torch.int32
        self.codes = torch.empty(0, 0, dtype=self.dtype)  # (N, L); -1 where unknown

    def get(self, index: Tensor, encode: Callable[[], Tensor]) -> Tensor:
        """Return the codes (B, L) int64 of positions ``index`` (B,); call ``encode`` for them if one is unknown."""
        place = index.cpu()
        size, length = int(place.max()) + 1, len(self.codes)
        if size <= length and bool((self.codes[place] >= 0).all()):
            return self.codes[place].to(index.device).long()
        codes = encode()
        if size > length:
            more = torch.full((max(size, 2 * length) - length, codes.shape[1]), -1, dtype=self.dtype)
            self.codes = torch.cat([self.codes.view(length, codes.shape[1]), more])
        self.codes[place] = codes.to("cpu", self.dtype)
        return codes
