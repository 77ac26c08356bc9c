"""Structural similarity."""

from typing import Any

from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure


def ssim(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return each image's SSIM (Wang et al. 2004), (B,); both (B, C, H, W) in [0, 1]."""
    # The window is odd and fits into the image; its usual Gaussian spans 11 pixels and has no smaller form.
    size = min(11, *(s - 1 + s % 2 for s in x.shape[-2:]))
    window: dict[str, Any] = {"gaussian_kernel": size == 11, "kernel_size": size, "data_range": 1.0}
    return structural_similarity_index_measure(x_hat, x, reduction="none", **window)  # type: ignore[return-value]
