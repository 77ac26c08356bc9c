"""Similarity of images, and their diversity."""

from typing import Any

from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from vqlab.metrics.codes import CodebookUsage


def psnr(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return the mean over the images of their PSNR in dB, at most 100 each; both (B, C, H, W) in [0, 1]."""
    mse = (x_hat - x).square().flatten(1).mean(1)
    return -10 * mse.clamp_min(1e-10).log10().mean()


def ssim(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return the SSIM (Wang et al. 2004) of each image, (B,); both (B, C, H, W) in [0, 1]."""
    # The window must be odd and fit into the image; below its usual 11 pixels it is uniform, not Gaussian.
    size = min(11, *(s - 1 + s % 2 for s in x.shape[-2:]))
    window: dict[str, Any] = {"gaussian_kernel": size == 11, "kernel_size": size, "data_range": 1.0}
    return structural_similarity_index_measure(x_hat, x, reduction="none", **window)  # type: ignore[return-value]


def diversity(fake: Tensor, real: Tensor) -> Tensor:
    """Return the spread (root of the total variance) of generated examples (N, ...) over that of real ones (M, ...).

    It is 0 if all are equal, but large for few kinds of examples that differ much: count the classes as well.
    """
    fake_spread, real_spread = (x.float().flatten(1).var(0, correction=0).sum().sqrt() for x in (fake, real))
    return fake_spread / real_spread.clamp_min(1e-12)


class EffectiveClasses(CodebookUsage):
    """Effective number of classes, the perplexity of class indices."""

    def compute(self) -> Tensor:  # type: ignore[override]
        """Return the perplexity, a scalar."""
        return super().compute()["perplexity"]
