"""What a discriminator that also classifies minimises: K classes of real images, and one more for generated ones.

Shapes: logits (B, K + 1), the last column of the generated images. Where a discriminator has K logits alone, the last
is fixed to 0, which loses nothing: a softmax stays the same when all logits move together (Salimans et al. 2016).
"""

import torch.nn.functional as F
from torch import Tensor

from vqlab.losses.adversarial import non_saturating_discriminator
from vqlab.nn.gan.sgan_discriminator import real_logit
from vqlab.nn.precision import upcast


def unsupervised_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return -E log p(real | x) / 2 - E log p(generated | G(z)) / 2: Salimans et al. 2016, L_unsupervised, halved.

    Example:
        >>> import torch
        >>> even = torch.zeros(4, 2)
        >>> round(unsupervised_loss(even, even).exp().item(), 4)
        2.0
    """
    return 0.5 * non_saturating_discriminator(real_logit(real_logits), real_logit(fake_logits))


def supervised_loss(logits: Tensor, labels: Tensor, among_real: bool) -> Tensor:
    """Return -E log p(y | x), in which p is over the K classes (``among_real``) or over all K + 1.

    Example:
        >>> import torch
        >>> even, label = torch.zeros(1, 3), torch.tensor([1])
        >>> [round(supervised_loss(even, label, among_real).exp().item(), 4) for among_real in (True, False)]
        [2.0, 3.0]
    """
    logits = upcast(logits)
    return F.cross_entropy(logits[:, :-1] if among_real else logits, labels)


def feature_matching(real_features: Tensor, fake_features: Tensor) -> Tensor:
    """Return the mean square of E f(x) - E f(G(z)), over the features (B, F): Salimans et al. 2016, section 3.1.

    ``real_features`` may be their mean already, (F,).

    Example:
        >>> import torch
        >>> feature_matching(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.zeros(1, 2)).item()
        2.0
    """
    real = real_features if real_features.ndim == 1 else upcast(real_features).mean(0)
    return (real - upcast(fake_features).mean(0)).square().mean()
