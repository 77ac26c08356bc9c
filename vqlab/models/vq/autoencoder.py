"""What VQVAE, VQGAN and S4DVQ share besides their training steps: verbs, evaluation, and the codebook's updates."""

import math
from collections.abc import Collection
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.losses.perceptual import Perceptual
from vqlab.metrics import CodebookUsage, FrechetDistance, psnr, ssim
from vqlab.models.model import Model
from vqlab.nn.base import Decoder, Encoder, check_autoencoder
from vqlab.nn.codes import as_codes, check_code_shape
from vqlab.nn.distributed import all_sum
from vqlab.nn.image_format import ImageFormat
from vqlab.nn.precision import like_weights
from vqlab.quantizers import IdentityQuantizer, Quantizer, QuantizerOutput
from vqlab.quantizers.base import CodeStats
from vqlab.training.batches import passed_on
from vqlab.training.learning_rate import reset_moments
from vqlab.training.lightning_fixes import is_log_step

RECONSTRUCTION = {"l2": F.mse_loss, "l1": F.l1_loss, "huber": F.smooth_l1_loss}


class Autoencoder(Model):
    """Encoder, quantizer, decoder; a subclass has the training step, ``check_input`` and ``evaluate``."""

    renamed_keys: ClassVar = {"train_usage.": "codebook.train_usage.", "revived": "codebook.revived"}
    encoder: Encoder
    decoder: Decoder
    quantizer: Quantizer

    def connect(self, convolution: type[nn.Conv1d] | type[nn.Conv2d], map_size: tuple[int, ...]) -> None:
        """Fit the quantizer to the networks by 1x1 convolutions, so that any quantizer goes with any network."""
        self.map_size = map_size
        self.quantizer.check_map(map_size)
        self.to_code = convolution(self.encoder.out_channels, self.quantizer.embedding_dim, 1)
        self.from_code = convolution(self.quantizer.embedding_dim, self.decoder.in_channels, 1)
        self.codebook = CodebookUpdates(self.quantizer)
        self.usage = CodebookUsage(self.quantizer.num_embeddings, self.quantizer.num_codebooks)

    def check_input(self, x: Tensor) -> None:
        """Raise UserError unless ``x`` is a batch with the channels of the model."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, QuantizerOutput]:
        """Return the reconstruction, of the shape of ``x``, and the quantizer's output."""
        self.check_input(x)
        code = self.quantizer(self.to_code(self.encoder(x)))
        return self.decoder(self.from_code(code.quantized)), code

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to indices (B, h, w), signals (B, C, L) to (B, l)."""
        self.check_input(x)
        return self.quantizer.encode(self.to_code(self.encoder(x)))

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (B, h, w) to images (B, C, H, W), (B, l) to signals (B, C, L); UserError if they are no codes."""
        indices = as_codes(indices, self.from_code.weight.device)
        check_code_shape(indices, self.quantizer.code_shape(self.map_size))
        return self.decoder(self.from_code(like_weights(self.quantizer.decode(indices), self.from_code)))

    def reconstruct(self, x: Tensor) -> Tensor:
        """Images or signals through their codes and back."""
        return self(x)[0] if isinstance(self.quantizer, IdentityQuantizer) else self.decode(self.encode(x))

    def parameter_groups(self, without: Collection[Tensor] = ()) -> list[dict[str, Any]]:
        """Return the weights of the networks ``without`` some, and the codebook's, which do not decay."""
        nets = nn.ModuleList([self.encoder, self.to_code, self.from_code, self.decoder])
        groups: list[dict[str, Any]] = [{"params": [p for p in nets.parameters() if p not in without]}]
        if codebook := list(self.quantizer.parameters()):
            groups.append({"params": codebook, "weight_decay": 0.0})
        return groups

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Step the weights, then update the codebook, before any callback writes a checkpoint."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.codebook.commit(self.quantizer, optimizer)

    def finish_evaluation(self, stage: str) -> None:
        """Log codebook utilization of the whole set."""
        self.log_dict({f"{stage}/{name}": value for name, value in self.usage.compute().items()}, sync_dist=True)
        self.usage.reset()

    def code_counts(self) -> Tensor:
        """Return how often each code was used in this evaluation, (num_codebooks * K,) int64, over all ranks."""
        return all_sum(self.usage.counts).flatten()


class ImageAutoencoder(Autoencoder):
    """An autoencoder of images."""

    modality = "image"
    reconstruction: str
    perceptual: Perceptual | None

    def build(self, quantizer: Quantizer, images: ImageFormat, frechet: FrechetDistance | None) -> None:
        """Add all but the losses to a model that has its encoder and decoder."""
        self.images, self.value_range = images, images.value_range
        self.quantizer = quantizer
        self.connect(nn.Conv2d, check_autoencoder(self.encoder, self.decoder, images.channels, images.size))
        if frechet is not None:
            frechet.check_shape(*images.shape)
        self.frechet = frechet

    def check_input(self, x: Tensor) -> None:
        self.images.check(x)

    def psnr(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Return the mean PSNR in dB of reconstructions (B, C, H, W)."""
        return psnr(self.value_range.decode(x_hat), self.value_range.decode(x))

    def evaluate(self, batch: dict[str, Tensor], stage: str) -> None:
        """Log loss, PSNR, SSIM and, where the model has it, LPIPS; the baseline is the mean colour of patches."""
        x = batch["image"]
        x_hat, code = self(x)
        rec_loss = RECONSTRUCTION[self.reconstruction](x_hat, x)
        metrics = {"loss": rec_loss + code.loss, "rec_loss": rec_loss}
        if self.perceptual is not None:
            signed = self.value_range.signed
            metrics[self.perceptual.name] = self.perceptual(signed(x_hat).clamp(-1, 1), signed(x)).mean()
        image, image_hat = self.value_range.decode(x), self.value_range.decode(x_hat.float())
        patches = F.avg_pool2d(image, self.encoder.downsampling)
        patch_mean = F.interpolate(patches, scale_factor=float(self.encoder.downsampling), mode="nearest")
        metrics |= {
            "bits_per_image": code.indices[0].numel() * math.log2(self.quantizer.num_embeddings),
            "psnr_patch_mean": psnr(patch_mean, image),
            "ssim": ssim(image_hat, image).mean(),
        }
        self.log_means(stage, metrics, len(x))
        self.log_means(stage, {"psnr": psnr(image_hat, image)}, len(x), prog_bar=True)
        self.usage.update(code.indices)
        if self.frechet is not None:
            self.frechet.update(image, real=True)
            self.frechet.update(image_hat, real=False)

    def finish_evaluation(self, stage: str) -> None:
        """Log codebook utilization and rFID of the whole set."""
        super().finish_evaluation(stage)
        if self.frechet is not None:
            self.log(f"{stage}/rfid_{self.frechet.name}", self.frechet.compute().float(), sync_dist=True)
            self.frechet.reset()

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return ``indices`` (B, h, w) with the batch's ``label`` and ``index``."""
        return {"indices": self.encode(batch["image"]), **passed_on(batch, "label", "index")}

    @torch.no_grad()
    def example_images(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return ``input`` and ``reconstruction`` in [0, 1], both (B, C, H, W)."""
        x = batch["image"]
        return {"input": self.value_range.decode(x), "reconstruction": self.value_range.decode(self.reconstruct(x))}


class CodebookUpdates(nn.Module):
    """Statistics of the codes, committed once per optimizer step, and counted for the log."""

    revived: Tensor  # codes revived since the last line of the log

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        quantizer.auto_update = False
        self.stats: CodeStats | None = None
        self.train_usage = CodebookUsage(quantizer.num_embeddings, quantizer.num_codebooks)
        self.train_usage.persistent(True)  # a resumed run continues the window that the checkpoint interrupted
        self.register_buffer("revived", torch.zeros((), dtype=torch.int64))

    def collect(self, code: QuantizerOutput) -> None:
        """Keep a batch's statistics until the optimizer steps, and count its codes for the log."""
        if code.stats is not None:
            self.stats = code.stats if self.stats is None else self.stats + code.stats
        self.train_usage.update(code.indices)

    def commit(self, quantizer: Quantizer, optimizer: Any) -> None:
        """Update the codebook by the statistics since the last step; revived codes lose their optimizer state."""
        if self.stats is not None:
            for codebook, rows in quantizer.update(self.stats):
                reset_moments(getattr(optimizer, "optimizer", optimizer), codebook, rows)
                self.revived += rows.sum()
            self.stats = None

    def log(self, model: Any, loss: Tensor, terms: dict[str, Tensor]) -> None:
        """Log the terms of a batch, and the use of the codes since the last line of the log."""
        model.log_dict({f"train/{name}": value.detach() for name, value in terms.items()})
        model.log("train/loss", loss.detach(), prog_bar=True)
        if is_log_step(model.trainer, model.global_step + 1):
            usage = self.train_usage.compute()
            model.log("train/perplexity", usage["perplexity"], prog_bar=True)
            model.log("train/codebook_usage", usage["codebook_usage"])
            model.log("train/revived_codes", self.revived.float())
            self.train_usage.reset()
            self.revived.zero_()
