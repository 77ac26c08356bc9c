"""Diversity of generated examples."""

import torch
from torch import Tensor
from torchmetrics import Metric


def diversity(fake: Tensor, real: Tensor) -> Tensor:
    """Return the spread of generated examples over that of real ones: 1 where they differ as much, 0 if all are equal.

    The spread is the root of the total variance. Few kinds of example, but far apart, still have a large spread: count
    the classes as well. fake (N, ...), real (M, ...) in the same units -> scalar.
    """
    fake_spread, real_spread = (x.float().flatten(1).var(0, correction=0).sum().sqrt() for x in (fake, real))
    return fake_spread / real_spread.clamp_min(1e-12)


class EffectiveClasses(Metric):
    """exp of the entropy of the classes: the number of equally frequent classes of the same entropy.

    Args:
        num_classes: K.

    Example:
        >>> classes = EffectiveClasses(4)
        >>> classes.update(torch.tensor([0, 1, 1, 0]))
        >>> classes.compute().item()
        2.0
    """

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
