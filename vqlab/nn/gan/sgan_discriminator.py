"""A discriminator that also classifies: a network with heads for K classes of real images, and for generated ones."""

from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as normalise

from vqlab.nn.base import FeatureNet
from vqlab.nn.gan.conv import draw_weights
from vqlab.nn.precision import upcast


class DiscriminatorOutput(NamedTuple):
    """The output for B images."""

    features: Tensor  # (B, F)
    logits: Tensor  # (B, K + 1), the last for generated images
    real_logits: Tensor  # (B,), high where the image looks real


class SGANDiscriminator(nn.Module):
    """Heads on the features of images.

    Args:
        net: Network to features.
        num_classes: K.
        head: ``kplus1``, K + 1 logits and an adversarial logit; ``logsumexp``, K logits, 0 for generated images, and
            the log-sum-exp of the K as the adversarial logit (Salimans et al. 2016, arXiv:1606.03498, section 5).
        spectral_norm: Divide each weight but those of the class head, as the matrix (out, in * height * width), by its
            largest singular value (Miyato et al. 2018, arXiv:1802.05957).

    Example:
        >>> import torch
        >>> from vqlab.nn.gan.conv import ConvFeatures
        >>> output = SGANDiscriminator(ConvFeatures(), num_classes=10)(torch.randn(2, 1, 32, 32))
        >>> tuple(output.features.shape), tuple(output.logits.shape), tuple(output.real_logits.shape)
        ((2, 512), (2, 11), (2,))
    """

    def __init__(
        self,
        net: FeatureNet,
        num_classes: int,
        head: Literal["kplus1", "logsumexp"] = "kplus1",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        self.net = net
        self.class_head = nn.Linear(net.out_features, num_classes + (head == "kplus1"))
        self.adversarial_head = nn.Linear(net.out_features, 1) if head == "kplus1" else None
        for layer in (self.class_head, self.adversarial_head):
            if layer is not None:
                draw_weights(layer)
        if spectral_norm:
            for part in list(self.modules()):
                if isinstance(part, nn.Linear | nn.Conv2d) and part is not self.class_head:
                    normalise(part)

    def forward(self, x: Tensor) -> DiscriminatorOutput:
        features = self.net(x)
        logits = self.class_head(features)
        if self.adversarial_head is not None:
            return DiscriminatorOutput(features, logits, self.adversarial_head(features)[:, 0])
        logits = F.pad(logits, (0, 1))
        return DiscriminatorOutput(features, logits, real_logit(logits))


def real_logit(logits: Tensor) -> Tensor:
    """Return log p(real) - log p(generated), (B,): the log-sum-exp of the K classes over the last of K + 1 logits."""
    logits = upcast(logits)
    return logits[:, :-1].logsumexp(1) - logits[:, -1]
