"""VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937): an autoencoder with a discrete code in its middle."""

import math
from typing import Any, Literal

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from vqlab.errors import UserError
from vqlab.metrics.codebook import CodebookUsage
from vqlab.metrics.frechet import FrechetDistance
from vqlab.metrics.psnr import psnr
from vqlab.nn.base import Decoder, Encoder, check_autoencoder
from vqlab.nn.distributed import all_sum
from vqlab.nn.rebuild import Rebuildable, from_spec
from vqlab.nn.small_autoencoder import SmallDecoder, SmallEncoder
from vqlab.nn.value_range import ValueRange
from vqlab.quantizers.base import Quantizer, QuantizerOutput
from vqlab.quantizers.stats import CodeStats
from vqlab.quantizers.vector import VectorQuantizer
from vqlab.training.finite import require_finite
from vqlab.training.learning_rate import adam, check_lr, keep_configured_lr, reset_moments
from vqlab.training.loading import remember_arguments
from vqlab.training.log_interval import is_log_step
from vqlab.training.schedules import Schedule

DEFAULT_LR = 3e-4
RECONSTRUCTION = {"l2": F.mse_loss, "l1": F.l1_loss, "huber": F.smooth_l1_loss}


class VQVAE(Rebuildable, lightning.LightningModule):
    """Encoder, quantizer, decoder, trained on the reconstruction and the quantizer's own loss.

    loss = reconstruction(x^, x) + quantizer loss (paper, equation 3). 1x1 convolutions fit the encoder to the quantizer
    and the quantizer to the decoder, so any quantizer goes with any network. Drawing new images needs a prior over the
    codes, which is a model of its own.

    Args:
        encoder: Network from images to features; null takes the paper's, ``SmallEncoder``.
        decoder: Network from features to images; null takes the paper's, ``SmallDecoder``.
        quantizer: Null takes a ``VectorQuantizer`` with its defaults.
        reconstruction: ``l2``, ``l1`` or ``huber``, averaged over all numbers of the batch.
        lr: Absolute learning rate; without ``lr`` and ``base_lr`` it is 3e-4.
        base_lr: Rate per image: lr = base_lr x batch_size x devices x nodes x accumulation. Give one of the two.
        betas: Adam's decay rates.
        weight_decay: Decoupled weight decay; none on the codebook.
        schedule: Learning-rate schedule; null is constant.
        frechet: Frechet distance between images and reconstructions in evaluation, logged as ``val/rfid_<net>``; null
            computes none.
        channels: Channels of the images; the command line links it to the data.
        image_size: Height and width of the images; linked to the data.
        value_range: What the numbers of an image mean; linked to the data.

    Shape:
        images (B, channels, image_size, image_size) in ``value_range``; indices (B, h, w) int64,
        h = w = image_size / downsampling; behind these, or instead, the axes that the quantizer's indices have.

    Raises:
        UserError: If both rates are given, the image size is not divisible, or the channels of the parts differ.

    Example:
        >>> from vqlab.quantizers.fsq import FSQ
        >>> model = VQVAE(quantizer=FSQ([8, 5, 5, 5])).eval()
        >>> x = torch.rand(2, 3, 32, 32) * 2 - 1
        >>> codes = model.encode(x)
        >>> tuple(codes.shape), tuple(model.decode(codes).shape), torch.equal(model.decode(codes), model.reconstruct(x))
        ((2, 8, 8), (2, 3, 32, 32), True)
    """

    def __init__(
        self,
        encoder: Encoder | None = None,
        decoder: Decoder | None = None,
        quantizer: Quantizer | None = None,
        reconstruction: Literal["l2", "l1", "huber"] = "l2",
        lr: float | None = None,
        base_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        schedule: Schedule | None = None,
        frechet: FrechetDistance | None = None,
        channels: int = 3,
        image_size: int = 32,
        value_range: ValueRange | Literal["unit", "signed"] = "signed",
    ) -> None:
        super().__init__()
        remember_arguments(self)
        check_lr(lr, base_lr)
        if reconstruction not in RECONSTRUCTION:
            raise UserError(
                f"reconstruction must be l2, l1 or huber, got {reconstruction!r}: set --model.reconstruction"
            )
        # load_from_checkpoint hands the parts over as the plain data that they were stored as.
        encoder, decoder, quantizer = from_spec(encoder), from_spec(decoder), from_spec(quantizer)
        schedule, value_range = from_spec(schedule), from_spec(value_range)
        self.encoder: Encoder = encoder or SmallEncoder(in_channels=channels)
        self.decoder: Decoder = decoder or SmallDecoder(out_channels=channels)
        self.quantizer: Quantizer = quantizer or VectorQuantizer()
        self.value_range = ValueRange(value_range) if isinstance(value_range, str) else value_range
        self.reconstruction, self.lr, self.base_lr = reconstruction, lr, base_lr
        self.betas = (betas[0], betas[1])
        self.weight_decay, self.schedule = weight_decay, schedule or Schedule()
        self.channels, self.image_size = channels, image_size
        code_map = check_autoencoder(self.encoder, self.decoder, channels, image_size)
        self.quantizer.check_map(code_map)
        self.frechet: FrechetDistance | None = from_spec(frechet)
        if self.frechet is not None:
            self.frechet.check_shape(channels, image_size, image_size)

        self.to_code = nn.Conv2d(self.encoder.out_channels, self.quantizer.embedding_dim, 1)
        self.from_code = nn.Conv2d(self.quantizer.embedding_dim, self.decoder.in_channels, 1)
        self.quantizer.auto_update = False  # statistics are committed once per optimizer step, below
        self._stats: CodeStats | None = None
        self.train_usage = CodebookUsage(self.quantizer.num_embeddings, self.quantizer.num_codebooks)
        self.train_usage.persistent(True)  # a resumed run continues the window that the checkpoint interrupted
        self.revived: Tensor  # codes revived since the last line of the log
        self.register_buffer("revived", torch.zeros((), dtype=torch.int64))
        self.eval_usage = CodebookUsage(self.quantizer.num_embeddings, self.quantizer.num_codebooks)

    # What a user calls

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to indices (B, h, w)."""
        return self.quantizer.encode(self._features(x))

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (B, h, w) to images (B, C, H, W) in the value range."""
        return self.decoder(self.from_code(self.quantizer.decode(indices)))

    def reconstruct(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) through the code and back."""
        return self.decode(self.encode(x))

    def forward(self, x: Tensor) -> tuple[Tensor, QuantizerOutput]:
        """Return the reconstruction (B, C, H, W) and what the quantizer says."""
        code = self.quantizer(self._features(x))
        return self.decoder(self.from_code(code.quantized)), code

    # Training

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """One batch; the gradient step and the codebook's step follow in ``optimizer_step``."""
        x = batch["image"]
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
            default_lr=DEFAULT_LR,
            betas=self.betas,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            name="autoencoder",
        )

    def on_train_start(self) -> None:
        """Resume with the learning rate that is configured now."""
        keep_configured_lr(self)

    def prepare_data(self) -> None:
        """Fetch what the Frechet distance needs, once per machine, before anything of the run is written."""
        if self.frechet is not None and not self.trainer.predicting:
            self.frechet.load()

    # Evaluation

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log ``val/...``."""
        self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log ``test/...``."""
        self._evaluate(batch, "test")

    def on_validation_epoch_end(self) -> None:
        """Log the perplexity, usage and Frechet distance of the whole validation set."""
        self._log_whole_set("val")

    def on_test_epoch_end(self) -> None:
        """Log the perplexity, usage and Frechet distance of the whole test set."""
        self._log_whole_set("test")

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return ``indices`` (B, h, w) with the batch's ``label`` and ``index``."""
        return {"indices": self.encode(batch["image"]), "label": batch["label"], "index": batch["index"]}

    @torch.no_grad()
    def pictures(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return images in [0, 1] to look at: ``input`` and ``reconstruction``, both (B, C, H, W)."""
        x = batch["image"]
        return {"input": self.value_range.decode(x), "reconstruction": self.value_range.decode(self.reconstruct(x))}

    def code_counts(self) -> Tensor:
        """Return how often each code was used in this evaluation, (num_codebooks * K,) int64, over all ranks."""
        return all_sum(self.eval_usage.counts).flatten()

    # Parts

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Return the autoencoder's parameters; those of a codebook do not decay."""
        nets = (self.encoder, self.to_code, self.from_code, self.decoder)
        groups: list[dict[str, Any]] = [{"params": [p for net in nets for p in net.parameters()]}]
        if codebook := list(self.quantizer.parameters()):
            groups.append({"params": codebook, "weight_decay": 0.0})
        return groups

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

    def _features(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise UserError(
                f"images must be (B, {self.channels}, H, W), got {tuple(x.shape)}: build the model with other channels"
            )
        return self.to_code(self.encoder(x))

    def _evaluate(self, batch: dict[str, Tensor], stage: str) -> Tensor:
        """Log the figures of ``stage`` and return the reconstruction."""
        x = batch["image"]
        x_hat, code = self(x)
        rec_loss = RECONSTRUCTION[self.reconstruction](x_hat, x)
        image, image_hat = self.value_range.decode(x), self.value_range.decode(x_hat.float())
        # SSIM's window is odd and fits into the image; its usual Gaussian spans 11 pixels and has no smaller form.
        size = min(11, *(s - 1 + s % 2 for s in image.shape[-2:]))
        window: dict[str, Any] = {"gaussian_kernel": size == 11, "kernel_size": size, "data_range": 1.0}
        metrics: dict[str, Any] = {
            "loss": rec_loss + code.loss,
            "rec_loss": rec_loss,
            "bits_per_image": code.indices[0].numel() * math.log2(self.quantizer.num_embeddings),
            "psnr_patch_mean": psnr(patch_mean(image, self.encoder.downsampling), image),
            "ssim": structural_similarity_index_measure(image_hat, image, **window),
        }
        self.eval_usage.update(code.indices)
        if self.frechet is not None:
            self.frechet.update(image, real=True)
            self.frechet.update(image_hat, real=False)
        over_all: dict[str, Any] = {"on_epoch": True, "sync_dist": True, "batch_size": len(x)}
        self.log_dict({f"{stage}/{name}": value for name, value in metrics.items()}, **over_all)
        self.log(f"{stage}/psnr", psnr(image_hat, image), prog_bar=True, **over_all)
        return x_hat

    def _log_training(self, loss: Tensor, terms: dict[str, Tensor], x_hat: Tensor, x: Tensor) -> None:
        """Log a batch's terms, and perplexity, usage and revivals of all batches since the last line of the log."""
        with torch.no_grad():
            value = psnr(self.value_range.decode(x_hat.float()), self.value_range.decode(x))
        self.log_dict({f"train/{name}": value.detach() for name, value in {**terms, "psnr": value}.items()})
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
        if self.frechet is not None:
            figures[f"rfid_{self.frechet.name}"] = self.frechet.compute().float()
            self.frechet.reset()
        self.log_dict({f"{stage}/{name}": value for name, value in figures.items()}, sync_dist=True)


def patch_mean(image: Tensor, size: int) -> Tensor:
    """Replace each size x size patch of ``image`` (B, C, H, W) by its mean colour: what a mere thumbnail would keep."""
    return F.interpolate(F.avg_pool2d(image, size), scale_factor=float(size), mode="nearest")
