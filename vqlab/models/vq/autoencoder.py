"""Methods and parts of the models with encoder, quantizer and decoder: VQVAE, VQGAN and S4DVQ.

The functions are methods of a ``model`` with ``encoder``, ``to_code``, ``quantizer``, ``from_code``, ``decoder`` and
``check_input``. The 1x1 convolutions ``to_code`` and ``from_code`` fit any quantizer to any network.
"""

import math
from collections.abc import Callable, Collection
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.metrics import CodebookUsage, psnr, ssim
from vqlab.nn.codes import as_codes, check_code_shape
from vqlab.nn.distributed import all_sum
from vqlab.nn.precision import like_weights
from vqlab.quantizers import IdentityQuantizer, Quantizer, QuantizerOutput
from vqlab.quantizers.base import CodeStats
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
    """Indices (B, h, w) to images (B, C, H, W), (B, l) to signals (B, C, L); UserError for invalid indices."""
    indices = as_codes(indices, model.from_code.weight.device)
    check_code_shape(indices, model.quantizer.code_shape(model.map_size))
    return model.decoder(model.from_code(like_weights(model.quantizer.decode(indices), model.from_code)))


def reconstruct(model: Any, x: Tensor) -> Tensor:
    """Images or signals through their codes and back."""
    return model(x)[0] if isinstance(model.quantizer, IdentityQuantizer) else model.decode(model.encode(x))


def parameter_groups(model: Any, without: Collection[Tensor] = ()) -> list[dict[str, Any]]:
    """Return the weights of the networks except ``without``, and those of the codebook, without weight decay."""
    nets = nn.ModuleList([model.encoder, model.to_code, model.from_code, model.decoder])
    groups: list[dict[str, Any]] = [{"params": [p for p in nets.parameters() if p not in without]}]
    if codebook := list(model.quantizer.parameters()):
        groups.append({"params": codebook, "weight_decay": 0.0})
    return groups


def code_counts(model: Any) -> Tensor:
    """Return how often each code was used in this evaluation, (num_codebooks * K,) int64, summed over ranks."""
    return all_sum(model.codebook.usage.counts).flatten()


def optimizer_step(
    model: Any, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
) -> None:
    """Step the weights, then update the codebook, before any callback writes a checkpoint."""
    lightning.LightningModule.optimizer_step(model, epoch, batch_idx, optimizer, optimizer_closure)
    model.codebook.commit(model.quantizer, optimizer)


def finish_evaluation(model: Any, stage: str) -> None:
    """Log codebook utilization and rFID of the whole set."""
    metrics: dict[str, Any] = dict(model.codebook.usage.compute())
    model.codebook.usage.reset()
    if (frechet := getattr(model, "frechet", None)) is not None:
        metrics[f"rfid_{frechet.name}"] = frechet.compute().float()
        frechet.reset()
    model.log_dict({f"{stage}/{name}": value for name, value in metrics.items()}, sync_dist=True)


def check_input(model: Any, x: Tensor) -> None:  # this and the next are methods of image models
    """Raise UserError unless ``x`` is (B, C, H, W) with the channels of the model."""
    model.images.check(x)


def evaluate(model: Any, batch: dict[str, Tensor], stage: str) -> None:
    """Log loss, PSNR, SSIM and, if the model has it, LPIPS of a batch; update rFID and codebook utilization."""
    x = batch["image"]
    x_hat, code = model(x)
    rec_loss = RECONSTRUCTION[model.reconstruction](x_hat, x)
    image, image_hat = model.value_range.decode(x), model.value_range.decode(x_hat.float())
    size = model.encoder.downsampling
    patch_means = F.interpolate(F.avg_pool2d(image, size), scale_factor=float(size))  # baseline: one colour per code
    metrics = {
        "loss": rec_loss + code.loss,
        "rec_loss": rec_loss,
        "ssim": ssim(image_hat, image).mean(),
        "psnr_patch_mean": psnr(patch_means, image),
        "bits_per_image": code.indices[0].numel() * math.log2(model.quantizer.num_embeddings),
    }
    if model.perceptual is not None:
        signed = model.value_range.signed
        metrics[model.perceptual.name] = model.perceptual(signed(x_hat).clamp(-1, 1), signed(x)).mean()
    if model.frechet is not None:
        model.frechet.update(image, real=True)
        model.frechet.update(image_hat, real=False)
    model.codebook.usage.update(code.indices)
    model.log_means(stage, metrics, len(x))
    model.log_means(stage, {"psnr": psnr(image_hat, image)}, len(x), prog_bar=True)


def training_psnr(model: Any, x_hat: Tensor, x: Tensor) -> Tensor:
    """Return the mean PSNR in dB of reconstructions (B, C, H, W)."""
    return psnr(model.value_range.decode(x_hat.detach().float()), model.value_range.decode(x))


@torch.no_grad()
def example_images(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return ``input`` and ``reconstruction`` in [0, 1], both (B, C, H, W)."""
    x = batch["image"]
    return {"input": model.value_range.decode(x), "reconstruction": model.value_range.decode(model.reconstruct(x))}


class CodebookUpdates(nn.Module):
    """Statistics of the codes, committed to the quantizer once per optimizer step, and codebook utilization."""

    revived: Tensor  # codes revived since the last log line

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        quantizer.auto_update = False
        self.stats: CodeStats | None = None
        self.usage = CodebookUsage(quantizer.num_embeddings, quantizer.num_codebooks)  # in evaluation
        self.train_usage = CodebookUsage(quantizer.num_embeddings, quantizer.num_codebooks)
        self.train_usage.persistent(True)  # a resumed run continues the window between two log lines
        self.register_buffer("revived", torch.zeros((), dtype=torch.int64))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        counts = f"{prefix}train_usage.counts"
        if counts in state_dict and state_dict[counts].shape != self.train_usage.counts.shape:
            state_dict[counts] = self.train_usage.counts  # a GaussianQuantizer may get another number of codes
        super()._load_from_state_dict(state_dict, prefix, *args)

    def collect(self, code: QuantizerOutput) -> None:
        """Accumulate a batch's statistics until the optimizer step, and count its codes for the log."""
        if code.stats is not None:
            self.stats = code.stats if self.stats is None else self.stats + code.stats
        self.train_usage.update(code.indices)

    def commit(self, quantizer: Quantizer, optimizer: Any) -> None:
        """Update the codebook by the statistics since the last step; reset the optimizer state of revived codes."""
        if self.stats is not None:
            for codebook, rows in quantizer.update(self.stats):
                reset_moments(getattr(optimizer, "optimizer", optimizer), codebook, rows)
                self.revived += rows.sum()
            self.stats = None

    def log(self, model: Any, loss: Tensor, terms: dict[str, Tensor]) -> None:
        """Log the terms of a batch, and the codebook utilization since the last log line."""
        model.log_dict({f"train/{name}": value.detach() for name, value in terms.items()})
        model.log("train/loss", loss.detach(), prog_bar=True)
        if is_log_step(model.trainer, model.global_step + 1):
            usage = self.train_usage.compute()
            model.log("train/perplexity", usage["perplexity"], prog_bar=True)
            model.log("train/codebook_usage", usage["codebook_usage"])
            model.log("train/revived_codes", self.revived.float())
            self.train_usage.reset()
            self.revived.zero_()
