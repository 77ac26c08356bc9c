"""How near images are to others, and how diverse."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.image import structural_similarity_index_measure


def psnr(x_hat: Tensor, x: Tensor) -> Tensor:
    """Mean over the images of each image's PSNR in dB, at most 100; both (B, C, H, W) in [0, 1]."""
    mse = (x_hat - x).square().flatten(1).mean(1)
    return -10 * mse.clamp_min(1e-10).log10().mean()


def ssim(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return each image's SSIM (Wang et al. 2004), (B,); both (B, C, H, W) in [0, 1]."""
    # The window is odd and fits into the image; its usual Gaussian spans 11 pixels and has no smaller form.
    size = min(11, *(s - 1 + s % 2 for s in x.shape[-2:]))
    window: dict[str, Any] = {"gaussian_kernel": size == 11, "kernel_size": size, "data_range": 1.0}
    return structural_similarity_index_measure(x_hat, x, reduction="none", **window)  # type: ignore[return-value]


def diversity(fake: Tensor, real: Tensor) -> Tensor:
    """Return the spread, the root of the total variance, of generated examples (N, ...) over that of real (M, ...).

    0 if all are equal. Few kinds of example, but far apart, still have a large spread: count the classes as well.
    """
    fake_spread, real_spread = (x.float().flatten(1).var(0, correction=0).sum().sqrt() for x in (fake, real))
    return fake_spread / real_spread.clamp_min(1e-12)


class EffectiveClasses(Metric):
    """exp of the entropy of K classes: the number of equally frequent classes of the same entropy."""

    counts: Tensor
    full_state_update = False
    higher_is_better = True

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("counts", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, classes: Tensor) -> None:
        """Count classes (N,) int64."""
        self.counts += classes.bincount(minlength=self.num_classes)

    def compute(self) -> Tensor:
        """Return the number, a scalar."""
        shares = self.counts.double() / self.counts.sum().clamp_min(1)
        return torch.special.entr(shares).sum().exp().float()
