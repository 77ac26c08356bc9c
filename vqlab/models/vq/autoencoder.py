"""What VQVAE, VQGAN and S4DVQ share: methods of a model with encoder, quantizer and decoder, and its codebook's log.

The functions are methods of a ``model`` with ``encoder``, ``to_code``, ``quantizer``, ``from_code``, ``decoder`` and
``check_input``; 1x1 convolutions fit the quantizer to the networks, so any quantizer goes with any network.
"""

import math
from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.metrics import CodebookUsage, FrechetDistance, psnr, ssim
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
RENAMED_KEYS = {"train_usage.": "codebook.train_usage.", "revived": "codebook.revived"}  # until 0.1, and now


def forward(model: Any, x: Tensor) -> tuple[Tensor, QuantizerOutput]:
    """Return the reconstruction, of the shape of ``x``, and the quantizer's output."""
    model.check_input(x)
    code = model.quantizer(model.to_code(model.encoder(x)))
    return model.decoder(model.from_code(code.quantized)), code


def encode(model: Any, x: Tensor) -> Tensor:
    """Images (B, C, H, W) to indices (B, h, w), signals (B, C, L) to (B, l)."""
    model.check_input(x)
    return model.quantizer.encode(model.to_code(model.encoder(x)))


def decode(model: Any, indices: Tensor) -> Tensor:
    """Indices (B, h, w) to images (B, C, H, W), (B, l) to signals (B, C, L); integers of any kind.

    Raises:
        UserError: If they are flat, are no integers, or one is no code of the quantizer.
    """
    indices = as_codes(indices, model.from_code.weight.device)
    check_code_shape(indices, model.quantizer.code_shape(model.map_size))
    return model.decoder(model.from_code(like_weights(model.quantizer.decode(indices), model.from_code)))


def reconstruct(model: Any, x: Tensor) -> Tensor:
    """Images or signals through their codes and back."""
    return model(x)[0] if isinstance(model.quantizer, IdentityQuantizer) else model.decode(model.encode(x))


def parameter_groups(model: Any, without: Collection[Tensor] = ()) -> list[dict[str, Any]]:
    """Return the weights of the networks ``without`` some, and the codebook's, which do not decay."""
    nets = nn.ModuleList([model.encoder, model.to_code, model.from_code, model.decoder])
    groups: list[dict[str, Any]] = [{"params": [p for p in nets.parameters() if p not in without]}]
    if codebook := list(model.quantizer.parameters()):
        groups.append({"params": codebook, "weight_decay": 0.0})
    return groups


def code_counts(model: Any) -> Tensor:
    """Return how often each code was used in this evaluation, (num_codebooks * K,) int64, over all ranks."""
    return all_sum(model.metrics.usage.counts).flatten()


# Methods of the models of images


def check_input(model: Any, x: Tensor) -> None:
    """Raise UserError unless ``x`` is (B, C, H, W) with the channels of the model."""
    model.images.check(x)


def evaluate(model: Any, batch: dict[str, Tensor], stage: str) -> None:
    """Log loss, PSNR, SSIM and, where the model has it, LPIPS of a batch."""
    x = batch["image"]
    x_hat, code = model(x)
    rec_loss = RECONSTRUCTION[model.reconstruction](x_hat, x)
    losses = {"loss": rec_loss + code.loss, "rec_loss": rec_loss}
    if model.perceptual is not None:
        signed = model.value_range.signed
        losses[model.perceptual.name] = model.perceptual(signed(x_hat).clamp(-1, 1), signed(x)).mean()
    x_hat = x_hat.float()
    model.log_means(stage, losses | model.metrics.update(x_hat, x, code.indices), len(x))
    model.log_means(stage, {"psnr": model.metrics.psnr(x_hat, x)}, len(x), prog_bar=True)


def finish_evaluation(model: Any, stage: str) -> None:
    """Log codebook utilization and rFID of the whole set."""
    model.log_dict({f"{stage}/{name}": value for name, value in model.metrics.compute().items()}, sync_dist=True)


def predict_step(model: Any, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
    """Return ``indices`` (B, h, w) with the batch's ``label`` and ``index``."""
    return {"indices": model.encode(batch["image"]), **passed_on(batch, "label", "index")}


@torch.no_grad()
def example_images(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return ``input`` and ``reconstruction`` in [0, 1], both (B, C, H, W)."""
    x = batch["image"]
    return {"input": model.value_range.decode(x), "reconstruction": model.value_range.decode(model.reconstruct(x))}


# Parts of the models


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


class ReconstructionMetrics(nn.Module):
    """PSNR, SSIM, rFID and codebook utilization of reconstructed images; the baseline is the mean colour of patches."""

    def __init__(
        self, quantizer: Quantizer, images: ImageFormat, downsampling: int, frechet: FrechetDistance | None
    ) -> None:
        super().__init__()
        if frechet is not None:
            frechet.check_shape(*images.shape)
        self.images, self.downsampling, self.frechet = images, downsampling, frechet
        self.num_embeddings = quantizer.num_embeddings
        self.usage = CodebookUsage(quantizer.num_embeddings, quantizer.num_codebooks)

    def psnr(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Mean PSNR in dB of reconstructions (B, C, H, W)."""
        decode = self.images.value_range.decode
        return psnr(decode(x_hat), decode(x))

    def update(self, x_hat: Tensor, x: Tensor, indices: Tensor) -> dict[str, Tensor | float]:
        """Collect a batch, and return its own metrics besides PSNR; images (B, C, H, W), indices (B, ...)."""
        image, image_hat = self.images.value_range.decode(x), self.images.value_range.decode(x_hat)
        self.usage.update(indices)
        if self.frechet is not None:
            self.frechet.update(image, real=True)
            self.frechet.update(image_hat, real=False)
        return {
            "bits_per_image": indices[0].numel() * math.log2(self.num_embeddings),
            "psnr_patch_mean": psnr(patch_mean(image, self.downsampling), image),
            "ssim": ssim(image_hat, image).mean(),
        }

    def compute(self) -> dict[str, Any]:
        """Return the metrics of the whole set, over all ranks, and start anew."""
        found: dict[str, Any] = dict(self.usage.compute())
        self.usage.reset()
        if self.frechet is not None:
            found[f"rfid_{self.frechet.name}"] = self.frechet.compute().float()
            self.frechet.reset()
        return found


def patch_mean(image: Tensor, size: int) -> Tensor:
    """Replace each size x size patch of ``image`` (B, C, H, W) by its mean colour."""
    return F.interpolate(F.avg_pool2d(image, size), scale_factor=float(size), mode="nearest")
