"""Losses of a generator of glyphs, and two rules that balance it against its discriminator."""

import torch
from torch import Tensor

from vqlab.losses.adversarial import non_saturating_discriminator
from vqlab.nn.distributed import means_over_ranks

# Factor of the generator's adversarial weight by the discriminator's cross-entropy, which is below 0.02 for a nearly
# perfect one and 2 ln 2 = 1.39 at chance: zi2zi-pytorch's (max32002) 0.2, 0.35, 0.5, 0.6 and 0.05, divided by 0.6.
LOSS_STEPS, FACTORS = (0.02, 0.08, 0.2, 5.0), (1 / 3, 7 / 12, 5 / 6, 1.0, 1 / 12)
MAX_ACCURACY = 0.9  # on real and on fake glyphs, above which the discriminator is not updated


def total_variation(x: Tensor) -> Tensor:
    """Return the mean absolute difference of vertical neighbours plus that of horizontal ones.

    Anisotropic total variation (Rudin et al. 1992); zi2zi's squares would prefer a blurred edge to a sharp one. Applied
    to the difference of two images it is a distance of their edges.

    Shape:
        x (B, C, H, W); scalar.

    Example:
        >>> stripes = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 1, 8, 8)
        >>> total_variation(stripes).item()
        2.0
    """
    return x.diff(dim=-2).abs().mean() + x.diff(dim=-1).abs().mean()


def eased(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the factor of the adversarial weight: low for an over-confident discriminator and for one below chance.

    Returns:
        Scalar in (0, 1], the same on all ranks.
    """
    (loss,) = means_over_ranks([non_saturating_discriminator(real_logits.detach(), fake_logits.detach())])
    return loss.new_tensor(FACTORS)[torch.bucketize(loss, loss.new_tensor(LOSS_STEPS))]


def is_ahead(real_accuracy: Tensor, fake_accuracy: Tensor) -> bool:
    """Return whether the discriminator is so accurate that its update is skipped; the same on all ranks."""
    return bool(torch.stack(means_over_ranks([real_accuracy, fake_accuracy])).min() > MAX_ACCURACY)
