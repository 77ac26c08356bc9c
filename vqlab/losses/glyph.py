"""What a generator of glyphs minimises besides its distance to the target, and how the game is kept in balance."""

import torch
from torch import Tensor

from vqlab.losses.adversarial import non_saturating_discriminator
from vqlab.nn.distributed import means_over_ranks

# Share of the generator's adversarial weight by the discriminator's cross-entropy: below 0.02 it is sure of almost all,
# at 2 ln 2 = 1.39 of nothing. The steps are those of zi2zi-pytorch (max32002), with 0.2, 0.35, 0.5, 0.6 and 0.05.
STEPS, SHARES = (0.02, 0.08, 0.2, 5.0), (1 / 3, 7 / 12, 5 / 6, 1.0, 1 / 12)
AHEAD = 0.9  # share of both sides that a discriminator is right about when it is to wait


def total_variation(x: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbours below each other, and of those beside each other, added.

    Rudin et al. 1992, the sides apart; zi2zi's squares would prefer a blurred edge to a sharp one. Of the difference of
    two images it is a distance of their edges.

    Shape:
        x (B, C, H, W); scalar.

    Example:
        >>> stripes = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 1, 8, 8)
        >>> total_variation(stripes).item()
        2.0
    """
    return x.diff(dim=-2).abs().mean() + x.diff(dim=-1).abs().mean()


def eased(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the share of the adversarial weight that a generator is to feel, less the surer the discriminator is.

    A generator gains nothing from a discriminator that nothing can deceive, and drifts after one that knows nothing.

    Returns:
        Scalar in (0, 1], the same on all ranks.

    Example:
        >>> round(eased(torch.tensor([9.0]), torch.tensor([-9.0])).item(), 3)
        0.333
    """
    (loss,) = means_over_ranks([non_saturating_discriminator(real_logits.detach(), fake_logits.detach())])
    return loss.new_tensor(SHARES)[torch.bucketize(loss, loss.new_tensor(STEPS))]


def is_ahead(reals_passed: Tensor, fakes_caught: Tensor) -> bool:
    """Return whether a discriminator that is right about these shares of the two sides is to wait; one for all ranks.

    Example:
        >>> is_ahead(torch.tensor(0.95), torch.tensor(0.92)), is_ahead(torch.tensor(1.0), torch.tensor(0.5))
        (True, False)
    """
    return bool(torch.stack(means_over_ranks([reals_passed, fakes_caught])).min() > AHEAD)
