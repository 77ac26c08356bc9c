"""Adversarial losses of discriminator and generator, their balance, and regularizers of the discriminator.

All average over logits of any shape; half-precision logits are cast to float32 first. x is real, x^ generated.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vqlab.nn.distributed import all_sum, means_over_ranks, world_size
from vqlab.nn.gan.discriminators import real_logit
from vqlab.nn.precision import KeepsFloat32, upcast
from vqlab.validation import Checked, Probability


class Adversarial(NamedTuple):
    """The losses of discriminator and generator, given functions f and g of single logits t."""

    f: Callable[[Tensor], Tensor]  # low for a high t
    g: Callable[[Tensor], Tensor]

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return mean f(D(x)) + mean f(-D(x^)), a scalar."""
        return self.f(upcast(real_logits)).mean() + self.f(-upcast(fake_logits)).mean()

    def generator(self, fake_logits: Tensor) -> Tensor:
        """Return mean g(D(x^)), a scalar."""
        return self.g(upcast(fake_logits)).mean()


def half_hinge(t: Tensor) -> Tensor:
    """Return max(0, 1 - t) / 2: Lim and Ye 2017, halved as in VQ-GAN's code."""
    return F.relu(1 - t) / 2


def logistic(t: Tensor) -> Tensor:
    """Return -log sigmoid(t): Goodfellow et al. 2014, equation 1 and section 3 (strong early gradients)."""
    return F.softplus(-t)


def half_square(t: Tensor) -> Tensor:
    """Return (t - 1)^2 / 2: Mao et al. 2017, equation 2 with a = -1 and b = c = 1."""
    return (t - 1).square() / 2


ADVERSARIAL = {
    "hinge": Adversarial(half_hinge, torch.neg),
    "non_saturating": Adversarial(logistic, logistic),
    "wgan": Adversarial(torch.neg, torch.neg),  # Arjovsky et al. 2017, equation 3; unbounded unless D is Lipschitz
    "lsgan": Adversarial(half_square, half_square),
}


# Losses of a discriminator that also classifies (SGAN): logits (B, K + 1) of K classes of real images and, in the last
# column, of generated images. A discriminator with K logits has 0 there: a softmax is invariant to a common shift.


def unsupervised_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return -E log p(real | x) / 2 - E log p(generated | x^) / 2: Salimans et al. 2016, L_unsupervised, halved."""
    return 0.5 * ADVERSARIAL["non_saturating"].discriminator(real_logit(real_logits), real_logit(fake_logits))


def supervised_loss(logits: Tensor, labels: Tensor, among_real: bool) -> Tensor:
    """Return -E log p(y | x), where p is over the K classes (``among_real``) or over all K + 1."""
    logits = upcast(logits)
    return F.cross_entropy(logits[:, :-1] if among_real else logits, labels)


def feature_matching(real_features: Tensor, fake_features: Tensor) -> Tensor:
    """Return the mean square of E f(x), (B, F) or (F,), - E f(x^), (B, F): Salimans et al. 2016, section 3.1."""
    real = real_features if real_features.ndim == 1 else upcast(real_features).mean(0)
    return (real - upcast(fake_features).mean(0)).square().mean()


def entropy_loss(logits: Tensor) -> Tensor:
    """Return the mean entropy of p(y | x, real) in nats, from logits (B, K + 1).

    Springenberg 2016, arXiv:1511.06390; in the discriminator of Dai et al. 2017, arXiv:1705.09783.
    """
    log_p = upcast(logits)[:, :-1].log_softmax(1)
    return -(log_p.exp() * log_p).sum(1).mean()


def consistency_loss(logits: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """Return -E sum_k q_k log p_k: p(y | x, real) from ``logits`` (B, K + 1), constant q from ``target`` (B, K + 1).

    The logits of q are divided by ``temperature``; below 1, q is sharper than the prediction, as in Xie et al. 2019
    (arXiv:1904.12848, section 3.3).
    """
    q = (upcast(target.detach())[:, :-1] / temperature).softmax(1)
    return F.cross_entropy(upcast(logits)[:, :-1], q)


def pull_away(features: Tensor) -> Tensor:
    """Return the mean squared cosine between different rows of ``features`` (B, F), in [0, 1].

    The pull-away term of Zhao et al. 2017 (arXiv:1609.03126, equation 4); it spreads generated images.

    Example:
        >>> pull_away(torch.tensor([[1.0, 0.0], [0.0, 2.0]])).item()
        0.0
    """
    directions = F.normalize(upcast(features), dim=1)
    squares = (directions @ directions.T).square()
    count = len(features)
    return (squares.sum() - squares.diagonal().sum()) / (count * (count - 1))


# Factors of the adversarial weight by the cross-entropy of the discriminator, which is 2 ln 2 = 1.39 at chance:
# the weights 0.2, 0.35, 0.5, 0.6 and 0.05 of zi2zi-pytorch (max32002), divided by 0.6.
LOSS_STEPS, FACTORS = (0.02, 0.08, 0.2, 5.0), (1 / 3, 7 / 12, 5 / 6, 1.0, 1 / 12)
MAX_ACCURACY = 0.9  # on real and on generated glyphs; above it the discriminator is not updated


def balance_factor(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return a factor in (0, 1], equal on all ranks: low for a discriminator that is too confident or below chance."""
    loss = ADVERSARIAL["non_saturating"].discriminator(real_logits.detach(), fake_logits.detach())
    (loss,) = means_over_ranks([loss])
    return loss.new_tensor(FACTORS)[torch.bucketize(loss, loss.new_tensor(LOSS_STEPS))]


def is_ahead(real_accuracy: Tensor, fake_accuracy: Tensor) -> bool:
    """Return whether the discriminator is so accurate that its update is skipped; equal on all ranks."""
    return bool(torch.stack(means_over_ranks([real_accuracy, fake_accuracy])).min() > MAX_ACCURACY)


def adaptive_weight(
    rec_loss: Tensor, adv_loss: Tensor, last_weight: Tensor, max_weight: float = 1e4, eps: float = 1e-4
) -> Tensor:
    """Return lambda = |grad_W L_rec| / (|grad_W L_adv| + eps), at most ``max_weight``, a scalar without a graph.

    Esser et al. 2021, arXiv:2012.09841, equation 7; W is the weight of the decoder's last layer, and ``eps`` and the
    bound are those of the published code. The gradients are first averaged over the ranks.

    Example:
        >>> w = torch.tensor([2.0], requires_grad=True)
        >>> x_hat = w * torch.ones(1, 1, 2, 2)
        >>> round(adaptive_weight(0.75 * x_hat.sum(), -0.25 * x_hat.sum(), w, eps=0.5).item(), 6)
        2.0
    """
    gradients = [torch.autograd.grad(loss, last_weight, retain_graph=True)[0].float() for loss in (rec_loss, adv_loss)]
    rec, adv = all_sum(torch.stack(gradients)) / world_size()
    return (rec.norm() / (adv.norm() + eps)).clamp(0, max_weight)


def linearized(loss: Tensor, x_hat: Tensor) -> Tensor:
    """Return the scalar ``loss`` as a linear function of ``x_hat``, with the same value and gradient.

    A network between the two, such as a discriminator, is differentiated only once, and its weights get no gradient.
    """
    (gradient,) = torch.autograd.grad(loss, x_hat)
    return loss.detach() + ((x_hat - x_hat.detach()) * gradient).sum()


def r1_penalty(real: Tensor, logits: Tensor) -> Tensor:
    """Return E |grad_x D(x)|^2 / 2 over real images, without the weight gamma (Mescheder et al. 2018, equation 9).

    The images (B, ...) must require gradients before the discriminator's forward pass, which must not use batch norm;
    ``logits`` (B, ...) are summed over the patches of an image.

    Example:
        >>> x = torch.ones(4, 3, requires_grad=True)
        >>> r1_penalty(x, (2 * x).sum(1)).item()
        6.0
    """
    (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return 0.5 * upcast(gradient).square().flatten(1).sum(1).mean()


def gradient_penalty(critic: Callable[..., Tensor], real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Return E (|gradient of D| - 1)^2 between real and generated inputs, without the weight lambda, usually 10.

    Gulrajani et al. 2017, arXiv:1704.00028, equation 3. The ``critic`` returns scores (B,) and has no batch norm;
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
    gradients = torch.autograd.grad(critic(*between).sum(), between, create_graph=True, materialize_grads=True)
    norms = torch.cat([upcast(gradient).flatten(1) for gradient in gradients], dim=1).norm(dim=1)
    return (norms - 1).square().mean()


class LeCam(Checked, KeepsFloat32):
    """LeCam regularization of the discriminator: mean (D(x) - a_F)^2 + mean (D(x^) - a_R)^2.

    Tseng et al. 2021, arXiv:2104.03310, R_LC; a_R and a_F are moving averages of D(x) and D(x^), initially 0, with
    a <- ``decay`` a + (1 - decay) mean. Published weights are 0.001 to 0.05.

    Example:
        >>> lecam = LeCam(decay=0.5)
        >>> lecam.update(torch.tensor([2.0, 4.0]), torch.tensor([-1.0]))
        >>> lecam.real_mean.item(), lecam.fake_mean.item(), lecam(torch.tensor([0.5]), torch.tensor([-0.5])).item()
        (1.5, -0.5, 5.0)
    """

    real_mean: Tensor
    fake_mean: Tensor

    def __init__(self, decay: Probability = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("real_mean", torch.zeros(()))
        self.register_buffer("fake_mean", torch.zeros(()))

    def forward(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return the regularizer, a scalar, without changing the averages."""
        real = (upcast(real_logits) - self.fake_mean).square().mean()
        return real + (upcast(fake_logits) - self.real_mean).square().mean()

    @torch.no_grad()
    def update(self, real_logits: Tensor, fake_logits: Tensor) -> None:
        """Update the averages with the logits of all ranks; call it once per step, on every rank."""
        means = all_sum(torch.stack([upcast(real_logits).mean(), upcast(fake_logits).mean()])) / world_size()
        self.real_mean.lerp_(means[0].to(self.real_mean.dtype), 1 - self.decay)
        self.fake_mean.lerp_(means[1].to(self.fake_mean.dtype), 1 - self.decay)
