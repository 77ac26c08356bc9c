"""What all priors share: a frozen tokenizer and its codes, the label, the optimizer and the metrics."""

import math
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.metrics.codes import unigram_bits
from vqlab.models.model import Model
from vqlab.models.prior.tokenizer import CodeCache, check_data, find_tokenizer
from vqlab.nn import ImageFormat
from vqlab.nn.distributed import all_gather_rows
from vqlab.nn.frozen import Frozen
from vqlab.nn.precision import like_weights, upcast, without_autocast
from vqlab.training import Optimization
from vqlab.training.batches import passed_on

MAX_COUNTS = 2**24  # entries of the table for val/unigram_bits: 64 MiB


class Prior(Model):
    """The base class of the priors: a model of the codes of a frozen tokenizer, with labels or without.

    A subclass sets ``network``, whose conditions (B,) are labels or ``num_classes`` for none, and defines
    ``training_step``, ``token_nll``, ``sample_codes`` and ``sample``, and ``nll`` if ``token_nll`` is not exact. The
    codes of an image are one sequence of ``length`` tokens (B, L), each below ``num_tokens``; token i belongs to
    codebook i mod ``num_codebooks``.
    """

    modality = "image"
    default_lr = 3e-4
    network: Any
    sample_codes: Callable[..., Tensor]  # (num, label, **options) to codes (num, h, w)

    def __init__(
        self,
        tokenizer: str | Path | lightning.LightningModule | None,
        conditional: bool,
        label_dropout: float,
        optimization: Optimization,
        images: ImageFormat | None,
        num_classes: int | None,
        codes: Literal["argmax", "posterior"] = "argmax",
    ) -> None:
        net = find_tokenizer(tokenizer)
        if codes == "posterior" and not hasattr(net, "sample_posterior"):
            raise UserError(f"codes must be argmax for a {type(net).__name__}, got posterior: only a JSA has chains")
        self.init_args["tokenizer"] = net  # so that a checkpoint describes the tokenizer, instead of naming a file
        super().__init__()
        check_data(net, images)
        self.images, self.value_range = net.images, net.images.value_range
        if conditional and not num_classes:
            raise UserError("conditional must be false for data without labels, got true")
        self.conditional, self.label_dropout, self.optimization = conditional, label_dropout, optimization
        self.how = {} if codes == "argmax" else {"how": codes}  # to encode
        self.num_classes = num_classes if conditional and num_classes else 0
        self.tokenizer: Any = Frozen(net, saved=True)
        with torch.no_grad():
            self.code_shape = tuple(net.encode(torch.zeros(1, *self.images.shape)).shape[1:])
        self.length, self.num_tokens = math.prod(self.code_shape), net.quantizer.num_embeddings
        self.num_codebooks = getattr(net.quantizer, "num_codebooks", 1)
        self.counts: Tensor | None  # how often each code was at each position in training, summed over ranks
        size = self.length, self.num_tokens
        countable = math.prod(size) <= MAX_COUNTS
        self.register_buffer("counts", torch.zeros(size, dtype=torch.int32) if countable else None)
        self._cache: CodeCache | None = None

    def nll(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Negative log-likelihood (B,), in nats, of the codes of images (B, C, H, W) given labels (B,)."""
        index = torch.arange(len(x), device=x.device)
        return self.token_nll(self.encode(x).flatten(1), self.as_condition(label, len(x)), index).sum(1)

    @abstractmethod
    def token_nll(self, tokens: Tensor, condition: Tensor, index: Tensor) -> Tensor:
        """Return what ``evaluate`` averages, (B, L) in nats, for tokens (B, L) of the images ``index`` (B,)."""

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to the tokenizer's codes (B, h, w)."""
        with torch.no_grad(), without_autocast(x.device):  # in float32, so that codes do not depend on the precision
            return self.tokenizer.net.encode(like_weights(upcast(x), self.tokenizer.net), **self.how)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) to images (B, C, H, W) in the value range."""
        with torch.no_grad(), without_autocast(self.device):
            return like_weights(self.tokenizer.net.decode(codes), self.network)

    def prepare_data(self) -> None:
        """Download nothing: the losses and metrics of the tokenizer are not used."""

    def on_fit_start(self) -> None:
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        once = getattr(datamodule, "augment", True) is False  # otherwise the image of an index may change
        self._cache = CodeCache(self.num_tokens) if once else None
        how = "image once (augment is false)" if once else "batch again (augment is true or unknown)"
        rank_zero_info(f"codes: encoding each training {how}")

    def training_tokens(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the tokens (B, L) of a batch and its conditions (B,), some of them hidden; count the tokens."""
        if self._cache is not None and "index" in batch:
            tokens = self._cache.get(batch["index"], lambda: self.encode(batch["image"]).flatten(1))
        else:
            tokens = self.encode(batch["image"]).flatten(1)
        condition = self.as_condition(batch.get("label"), len(tokens))
        if self.conditional:
            hidden = torch.rand(len(tokens), device=self.device) < self.label_dropout
            condition = condition.masked_fill(hidden, self.num_classes)
        if self.counts is not None:
            every = all_gather_rows(tokens).T  # all ranks have the same counts
            self.counts.scatter_add_(1, every, torch.ones_like(every, dtype=self.counts.dtype))
        return tokens, condition

    def configure_optimizers(self) -> Any:
        embeddings = {part.weight for part in self.network.modules() if isinstance(part, nn.Embedding)}
        decayed = [p for p in self.network.parameters() if p.ndim == 2 and p not in embeddings]
        others = [p for p in self.network.parameters() if p.ndim != 2 or p in embeddings]
        groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        return self.optimization.optimizer(self, groups, "prior")

    def evaluate(self, batch: dict[str, Tensor], stage: str) -> None:
        """Log the negative log-likelihood of the codes of a batch, and the unigram baseline."""
        tokens = self.encode(batch["image"]).flatten(1)
        index = batch.get("index", torch.arange(len(tokens), device=tokens.device))
        nll = self.token_nll(tokens, self.as_condition(batch.get("label"), len(tokens)), index).mean()
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
        codes = self.sample_codes(num, label, generator=generator)
        return {"sample": self.value_range.decode(self.decode(codes))}

    def as_condition(self, label: Tensor | None, num: int) -> Tensor:
        """Return the network's conditions (num,) for labels (num,), negative where unknown, or for None."""
        if label is None or not self.conditional:
            return torch.full((num,), self.num_classes, device=self.device)
        return torch.where(label < 0, self.num_classes, label)

    def sampling_condition(self, label: int | Tensor | None, num: int, guidance: float) -> Tensor:
        """Return the network's conditions (num,) for one label, (num,) labels or None; raise UserError for others."""
        if label is None:
            if guidance != 1:
                raise UserError(f"guidance {guidance} needs a label: add --label, or leave --guidance out")
            return self.as_condition(None, num)
        if not self.conditional:
            raise UserError("label needs a conditional prior: leave --label out, or set --model.conditional=true")
        labels = torch.as_tensor(label, device=self.device).long()
        if labels.shape not in ((), (num,)) or labels.min() < 0 or labels.max() >= self.num_classes:
            rule = f"label must be one number or {num} numbers in 0 .. {self.num_classes - 1}"
            raise UserError(f"{rule}, got {labels.tolist()!s:.60}: change --label")
        return labels.expand(num)
