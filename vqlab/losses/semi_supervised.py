"""Losses of a discriminator that also classifies: K classes of real images, and one more for generated ones.

Shapes: logits (B, K + 1), the last column for generated images. For a discriminator with K logits it is fixed to 0,
without loss of generality: a softmax does not change when all logits are shifted (Salimans et al. 2016).
"""

import torch.nn.functional as F
from torch import Tensor

from vqlab.losses.adversarial import non_saturating_discriminator
from vqlab.nn.gan.discriminators import real_logit
from vqlab.nn.precision import upcast


def unsupervised_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return -E log p(real | x) / 2 - E log p(generated | G(z)) / 2: Salimans et al. 2016, L_unsupervised, halved."""
    return 0.5 * non_saturating_discriminator(real_logit(real_logits), real_logit(fake_logits))


def supervised_loss(logits: Tensor, labels: Tensor, among_real: bool) -> Tensor:
    """Return -E log p(y | x), in which p is over the K classes (``among_real``) or over all K + 1."""
    logits = upcast(logits)
    return F.cross_entropy(logits[:, :-1] if among_real else logits, labels)


def feature_matching(real_features: Tensor, fake_features: Tensor) -> Tensor:
    """Return the mean square of E f(x) - E f(G(z)), over the features (B, F): Salimans et al. 2016, section 3.1.

    ``real_features`` may be their mean already, (F,).
    """
    real = real_features if real_features.ndim == 1 else upcast(real_features).mean(0)
    return (real - upcast(fake_features).mean(0)).square().mean()
