"""What an evaluation asks of reconstructed images."""

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.metrics.codes.usage import CodebookUsage
from vqlab.metrics.images.frechet import FrechetDistance
from vqlab.metrics.images.psnr import psnr
from vqlab.metrics.images.ssim import ssim
from vqlab.nn.distributed import all_sum
from vqlab.nn.image_format import ImageFormat
from vqlab.quantizers.base import Quantizer


class ReconstructionMetrics(nn.Module):
    """PSNR, SSIM, rFID and codebook utilization of reconstructed images.

    Args:
        quantizer: The quantizer, for the numbers of codes.
        images: Format of the images.
        downsampling: Side of the patches whose mean colours are the baseline ``psnr_patch_mean``.
        frechet: Frechet distance between images and reconstructions; None computes none.
    """

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
        """Return the metrics of the whole set, over all ranks, and start anew; ``code_counts`` stay for a reader."""
        found: dict[str, Any] = dict(self.usage.compute())
        self.usage.reset()
        if self.frechet is not None:
            found[f"rfid_{self.frechet.name}"] = self.frechet.compute().float()
            self.frechet.reset()
        return found

    def code_counts(self) -> Tensor:
        """Return how often each code was used in this evaluation, (num_codebooks * K,) int64, over all ranks."""
        return all_sum(self.usage.counts).flatten()


def patch_mean(image: Tensor, size: int) -> Tensor:
    """Replace each size x size patch of ``image`` (B, C, H, W) by its mean colour."""
    return F.interpolate(F.avg_pool2d(image, size), scale_factor=float(size), mode="nearest")
