"""An autoencoder with a quantizer in its middle: what the models of images and of signals share."""

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.metrics.codes.usage import CodebookUsage
from vqlab.models.model import Model
from vqlab.nn.base import Decoder, Encoder
from vqlab.nn.codes import as_codes, check_code_shape
from vqlab.nn.distributed import all_sum
from vqlab.nn.precision import like_weights
from vqlab.quantizers.base import Quantizer, QuantizerOutput
from vqlab.quantizers.identity import IdentityQuantizer
from vqlab.quantizers.stats import CodeStats
from vqlab.training.checkpoint import save_init_args
from vqlab.training.finite import require_finite
from vqlab.training.learning_rate import adam, check_lr, keep_configured_lr, reset_moments
from vqlab.training.log_interval import is_log_step
from vqlab.training.schedules import Schedule

RECONSTRUCTION = {"l2": F.mse_loss, "l1": F.l1_loss, "huber": F.smooth_l1_loss}


class QuantizedAutoencoder(Model, ABC):
    """Encoder, quantizer, decoder, trained on the reconstruction and the quantizer's own loss.

    1x1 convolutions fit the encoder to the quantizer and the quantizer to the decoder, so any quantizer goes with any
    network. Quantizers learn once per step of the optimizer, whatever was accumulated.

    Args:
        encoder: Network to features.
        decoder: Network from features.
        quantizer: The quantizer.
        projection: ``nn.Conv1d`` for signals, ``nn.Conv2d`` for images.
        reconstruction: ``l2``, ``l1`` or ``huber``, averaged over all numbers of the batch.
        lr: Absolute learning rate; without ``lr`` and ``base_lr`` it is ``default_lr``.
        base_lr: Rate per example: lr = base_lr x batch_size x devices x nodes x accumulation. Give one of the two.
        betas: Adam's decay rates.
        weight_decay: Decoupled weight decay; none on the codebook.
        schedule: Learning-rate schedule; null is constant.

    Raises:
        UserError: If both rates are given, or ``reconstruction`` is unknown.
    """

    modality: str  # the batch's key
    default_lr = 3e-4
    channels: int
    map_size: tuple[int, ...]  # of the features of what the data hold

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        quantizer: Quantizer,
        projection: type[nn.Conv1d] | type[nn.Conv2d],
        reconstruction: Literal["l2", "l1", "huber"],
        lr: float | None,
        base_lr: float | None,
        betas: tuple[float, float],
        weight_decay: float,
        schedule: Schedule | None,
    ) -> None:
        super().__init__()
        save_init_args(self)
        check_lr(lr, base_lr)
        if reconstruction not in RECONSTRUCTION:
            raise UserError(
                f"reconstruction must be l2, l1 or huber, got {reconstruction!r}: set --model.reconstruction"
            )
        self.encoder, self.decoder, self.quantizer = encoder, decoder, quantizer
        self.reconstruction, self.lr, self.base_lr = reconstruction, lr, base_lr
        self.betas, self.weight_decay, self.schedule = (betas[0], betas[1]), weight_decay, schedule or Schedule()
        self.to_code = projection(encoder.out_channels, quantizer.embedding_dim, 1)
        self.from_code = projection(quantizer.embedding_dim, decoder.in_channels, 1)
        quantizer.auto_update = False  # statistics are committed once per optimizer step, below
        self._stats: CodeStats | None = None
        self.train_usage = CodebookUsage(quantizer.num_embeddings, quantizer.num_codebooks)
        self.train_usage.persistent(True)  # a resumed run continues the window that the checkpoint interrupted
        self.revived: Tensor  # codes revived since the last line of the log
        self.register_buffer("revived", torch.zeros((), dtype=torch.int64))
        self.eval_usage = CodebookUsage(quantizer.num_embeddings, quantizer.num_codebooks)

    # What a user calls

    def encode(self, x: Tensor) -> Tensor:
        """(B, C, *size) to indices (B, *map)."""
        return self.quantizer.encode(self._features(x))

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (B, *map) to (B, C, *size); integers of any kind, also from NumPy.

        Raises:
            UserError: If they are flat, are no integers, or one is no code of the quantizer.
        """
        indices = as_codes(indices, self.from_code.weight.device)
        check_code_shape(indices, self.quantizer.code_shape(self.map_size))
        return self.decoder(self.from_code(like_weights(self.quantizer.decode(indices), self.from_code)))

    def reconstruct(self, x: Tensor) -> Tensor:
        """(B, C, *size) through the code and back."""
        return self(x)[0] if isinstance(self.quantizer, IdentityQuantizer) else self.decode(self.encode(x))

    def forward(self, x: Tensor) -> tuple[Tensor, QuantizerOutput]:
        """Return the reconstruction (B, C, *size) and what the quantizer says."""
        code = self.quantizer(self._features(x))
        return self.decoder(self.from_code(code.quantized)), code

    # Training

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """One batch; the gradient step and the codebook's step follow in ``optimizer_step``."""
        x = batch[self.modality]
        self.quantizer.sample_index = batch.get("index")
        x_hat, code = self(x)
        rec_loss = RECONSTRUCTION[self.reconstruction](x_hat, x)
        loss = rec_loss + code.loss
        terms = {"rec_loss": rec_loss, **code.terms}
        require_finite({"loss": loss, **terms}, batch_idx, self.global_step)
        self._collect(code)
        self._log_training(loss, terms, x_hat, x)
        return loss

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Step the weights, then the codebook's statistics, before any callback writes a checkpoint."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self._commit(optimizer)

    def configure_optimizers(self) -> Any:
        """Adam over all parts."""
        return adam(
            self,
            self._parameter_groups(),
            lr=self.lr,
            base_lr=self.base_lr,
            default_lr=self.default_lr,
            betas=self.betas,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            name="autoencoder",
        )

    def on_train_start(self) -> None:
        """Resume with the learning rate that is configured now."""
        keep_configured_lr(self)

    # Evaluation

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log ``val/...``."""
        self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log ``test/...``."""
        self._evaluate(batch, "test")

    def on_validation_epoch_end(self) -> None:
        """Log the figures of the whole validation set."""
        self._log_whole_set("val")

    def on_test_epoch_end(self) -> None:
        """Log the figures of the whole test set."""
        self._log_whole_set("test")

    def code_counts(self) -> Tensor:
        """Return how often each code was used in this evaluation, (num_codebooks * K,) int64, over all ranks."""
        return all_sum(self.eval_usage.counts).flatten()

    # Parts

    @abstractmethod
    def quality(self, x_hat: Tensor, x: Tensor) -> dict[str, Tensor]:
        """Return how near ``x_hat`` is to ``x``, (B, C, *size) each: scalars by name."""

    @abstractmethod
    def figures(self, x_hat: Tensor, x: Tensor, bits: float) -> dict[str, Any]:
        """Return what an evaluation logs besides, of an example that takes so many ``bits``: scalars by name."""

    def _evaluate(self, batch: dict[str, Tensor], stage: str) -> Tensor:
        """Log the figures of a batch and return the reconstruction."""
        x = batch[self.modality]
        x_hat, code = self(x)
        rec_loss = RECONSTRUCTION[self.reconstruction](x_hat, x)
        self.eval_usage.update(code.indices)
        bits = code.indices[0].numel() * math.log2(self.quantizer.num_embeddings)
        figures = {"loss": rec_loss + code.loss, "rec_loss": rec_loss, **self.figures(x_hat.float(), x, bits)}
        quality = self.quality(x_hat.float(), x)
        for part, shown in ((figures, False), (quality, True)):
            named = {f"{stage}/{name}": value for name, value in part.items()}
            self.log_dict(named, prog_bar=shown, on_epoch=True, sync_dist=True, batch_size=len(x))
        return x_hat

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Return the autoencoder's parameters; those of a codebook do not decay."""
        nets = (self.encoder, self.to_code, self.from_code, self.decoder)
        groups: list[dict[str, Any]] = [{"params": [p for net in nets for p in net.parameters()]}]
        if codebook := list(self.quantizer.parameters()):
            groups.append({"params": codebook, "weight_decay": 0.0})
        return groups

    def _features(self, x: Tensor) -> Tensor:
        self._check(x)
        return self.to_code(self.encoder(x))

    @abstractmethod
    def _check(self, x: Tensor) -> None:
        """Raise UserError if ``x`` has another shape than the model's."""

    def _collect(self, code: QuantizerOutput) -> None:
        """Keep a batch's statistics until the optimizer steps, and count its codes for the log."""
        if code.stats is not None:
            self._stats = code.stats if self._stats is None else self._stats + code.stats
        self.train_usage.update(code.indices)

    def _commit(self, optimizer: Any) -> None:
        """Let the codebook learn from the statistics since the last step."""
        if self._stats is not None:
            for codebook, rows in self.quantizer.update(self._stats):
                reset_moments(getattr(optimizer, "optimizer", optimizer), codebook, rows)
                self.revived += rows.sum()
            self._stats = None

    def _log_training(self, loss: Tensor, terms: dict[str, Tensor], x_hat: Tensor, x: Tensor) -> None:
        """Log a batch's terms, and perplexity, usage and revivals of all batches since the last line of the log."""
        with torch.no_grad():
            terms = terms | self.quality(x_hat.detach().float(), x)
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()})
        self.log("train/loss", loss.detach(), prog_bar=True)
        if is_log_step(self.trainer, self.global_step + 1):
            usage = self.train_usage.compute()
            self.log("train/perplexity", usage["perplexity"], prog_bar=True)
            self.log("train/codebook_usage", usage["codebook_usage"])
            self.log("train/revived_codes", self.revived.float())
            self.train_usage.reset()
            self.revived.zero_()

    def _log_whole_set(self, stage: str) -> None:
        figures = self.eval_usage.compute()  # of all ranks
        self.eval_usage.reset()
        self.log_dict({f"{stage}/{name}": value for name, value in figures.items()}, sync_dist=True)
