"""Adversarial losses of discriminator and generator, their balance, and regularisers of the discriminator.

All take logits of any shape and average over all of them, so two ranks with half a batch each average to the loss of
the whole batch. Half-precision logits are cast to float32 first.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vqlab.errors import UserError
from vqlab.nn.distributed import all_sum, means_over_ranks, world_size
from vqlab.nn.precision import KeepsFloat32, upcast
from vqlab.validation import Checked, Probability


class Adversarial(NamedTuple):
    """The two losses of an adversarial objective."""

    discriminator: Callable[[Tensor, Tensor], Tensor]  # (real logits, fake logits) to a scalar
    generator: Callable[[Tensor], Tensor]  # (fake logits) to a scalar


def hinge_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return (mean max(0, 1 - D(x)) + mean max(0, 1 + D(x^))) / 2: Lim and Ye 2017, halved as in VQ-GAN's code."""
    return 0.5 * (F.relu(1 - upcast(real_logits)).mean() + F.relu(1 + upcast(fake_logits)).mean())


def non_saturating_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return -mean log sigmoid(D(x)) - mean log(1 - sigmoid(D(x^))): Goodfellow et al. 2014, equation 1."""
    return F.softplus(-upcast(real_logits)).mean() + F.softplus(upcast(fake_logits)).mean()


def non_saturating_generator(fake_logits: Tensor) -> Tensor:
    """Return -mean log sigmoid(D(x^)): Goodfellow et al. 2014, section 3, the objective with strong early gradients."""
    return F.softplus(-upcast(fake_logits)).mean()


def wasserstein_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return mean D(x^) - mean D(x): Arjovsky et al. 2017, equation 3; unbounded unless D is Lipschitz."""
    return upcast(fake_logits).mean() - upcast(real_logits).mean()


def linear_generator(fake_logits: Tensor) -> Tensor:
    """Return -mean D(x^), the generator's hinge and Wasserstein loss."""
    return -upcast(fake_logits).mean()


def least_squares_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return (mean (D(x) - 1)^2 + mean (D(x^) + 1)^2) / 2: Mao et al. 2017, equation 2, a = -1 and b = c = 1."""
    return 0.5 * ((upcast(real_logits) - 1).square().mean() + (upcast(fake_logits) + 1).square().mean())


def least_squares_generator(fake_logits: Tensor) -> Tensor:
    """Return mean (D(x^) - 1)^2 / 2 (the same)."""
    return 0.5 * (upcast(fake_logits) - 1).square().mean()


ADVERSARIAL = {
    "hinge": Adversarial(hinge_discriminator, linear_generator),
    "non_saturating": Adversarial(non_saturating_discriminator, non_saturating_generator),
    "wgan": Adversarial(wasserstein_discriminator, linear_generator),
    "lsgan": Adversarial(least_squares_discriminator, least_squares_generator),
}


# Factor of the generator's adversarial weight by the discriminator's cross-entropy, which is below 0.02 for a nearly
# perfect one and 2 ln 2 = 1.39 at chance: zi2zi-pytorch's (max32002) 0.2, 0.35, 0.5, 0.6 and 0.05, divided by 0.6.
LOSS_STEPS, FACTORS = (0.02, 0.08, 0.2, 5.0), (1 / 3, 7 / 12, 5 / 6, 1.0, 1 / 12)
MAX_ACCURACY = 0.9  # on real and on fake glyphs, above which the discriminator is not updated


def eased(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return a factor in (0, 1], the same on all ranks: low for an over-confident discriminator, or below chance."""
    (loss,) = means_over_ranks([non_saturating_discriminator(real_logits.detach(), fake_logits.detach())])
    return loss.new_tensor(FACTORS)[torch.bucketize(loss, loss.new_tensor(LOSS_STEPS))]


def is_ahead(real_accuracy: Tensor, fake_accuracy: Tensor) -> bool:
    """Return whether the discriminator is so accurate that its update is skipped; the same on all ranks."""
    return bool(torch.stack(means_over_ranks([real_accuracy, fake_accuracy])).min() > MAX_ACCURACY)


def r1_penalty(real: Tensor, logits: Tensor) -> Tensor:
    """Return E |grad_x D(x)|^2 / 2 over real images, to be multiplied by gamma.

    Mescheder et al. 2018, arXiv:1801.04406, equation 9, of images (B, ...) that required gradients before the
    discriminator's forward pass, and its ``logits`` (B, ...), summed over the patches of an image. The gradient is of
    each image alone only if the discriminator does not mix images, as batch norm does.

    Example:
        >>> x = torch.ones(4, 3, requires_grad=True)
        >>> r1_penalty(x, (2 * x).sum(1)).item()
        6.0
    """
    if not real.requires_grad:
        raise UserError("r1_penalty needs gradients of images: call real.requires_grad_() before discriminator(real)")
    (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return 0.5 * upcast(gradient).square().flatten(1).sum(1).mean()


def gradient_penalty(critic: Callable[..., Tensor], real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Return E (|gradient of D| - 1)^2 between real and generated inputs, to be multiplied by lambda, usually 10.

    Gulrajani et al. 2017, arXiv:1704.00028, equation 3. The ``critic`` gives scores (B,) and has no batch norm;
    ``real`` and ``fake`` are its inputs (B, ...), one tensor per argument. The norm is over all inputs of an example.

    Example:
        >>> x = torch.zeros(4, 3)
        >>> gradient_penalty(lambda x: 2 * x[:, 0], [x], [x + 1]).item()
        1.0
    """
    fraction = torch.rand(len(real[0]), device=real[0].device, dtype=real[0].dtype)
    between = [
        torch.lerp(f.detach(), r.detach(), fraction.view(-1, *[1] * (r.ndim - 1))).requires_grad_()
        for r, f in zip(real, fake, strict=True)
    ]
    gradients = torch.autograd.grad(
        critic(*between).sum(), between, create_graph=True, allow_unused=True, materialize_grads=True
    )
    norms = torch.cat([upcast(gradient).flatten(1) for gradient in gradients], dim=1).norm(dim=1)
    return (norms - 1).square().mean()


class LeCam(Checked, KeepsFloat32):
    """LeCam regularisation: mean (D(x) - a_F)^2 + mean (D(x^) - a_R)^2.

    Tseng et al. 2021, arXiv:2104.03310, R_LC; a_R and a_F are moving averages of D(x) and D(x^) and start at 0. Added
    to the discriminator's loss, in published recipes with a weight of 0.001 to 0.05.

    Args:
        decay: a <- decay a + (1 - decay) mean; the paper has 0.99.

    Example:
        >>> lecam = LeCam(decay=0.5)
        >>> lecam.update(torch.tensor([2.0, 4.0]), torch.tensor([-1.0]))
        >>> lecam.real_mean.item(), lecam.fake_mean.item()
        (1.5, -0.5)
        >>> lecam(torch.tensor([0.5]), torch.tensor([-0.5])).item()
        5.0
    """

    real_mean: Tensor
    fake_mean: Tensor

    def __init__(self, decay: Probability = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("real_mean", torch.zeros(()))
        self.register_buffer("fake_mean", torch.zeros(()))

    def forward(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return the regulariser of logits of any shape, a scalar; the averages do not change."""
        real = (upcast(real_logits) - self.fake_mean).square().mean()
        return real + (upcast(fake_logits) - self.real_mean).square().mean()

    @torch.no_grad()
    def update(self, real_logits: Tensor, fake_logits: Tensor) -> None:
        """Update the averages with the logits of all ranks; call it once per step, on every rank."""
        means = all_sum(torch.stack([upcast(real_logits).mean(), upcast(fake_logits).mean()])) / world_size()
        self.real_mean.lerp_(means[0].to(self.real_mean.dtype), 1 - self.decay)
        self.fake_mean.lerp_(means[1].to(self.fake_mean.dtype), 1 - self.decay)
