"""Peak signal-to-noise ratio."""

from torch import Tensor


def psnr(x_hat: Tensor, x: Tensor) -> Tensor:
    """Mean over the images of each image's PSNR in dB, at most 100; both (B, C, H, W) in [0, 1]."""
    mse = (x_hat - x).square().flatten(1).mean(1)
    return -10 * mse.clamp_min(1e-10).log10().mean()
