"""Discriminators of image patches (PatchGAN), of classes (SGAN), and of pairs of glyphs (FontGAN)."""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as normalise

from vqlab.errors import UserError
from vqlab.nn.autoencoders.conv import norm as group_norm
from vqlab.nn.base import Discriminator, FeatureNet
from vqlab.nn.gan.networks import draw_weights
from vqlab.nn.precision import upcast
from vqlab.nn.unet import UNet
from vqlab.nn.weight_norm import normalize_weights
from vqlab.serialization import ConfigMixin
from vqlab.validation import Count


class PatchGAN(Discriminator):
    """Convolutions that classify overlapping patches, of 70 x 70 pixels with three layers.

    4x4 convolutions with LeakyReLU(0.2): ``num_layers`` of stride 2, one of stride 1, and one to a single channel, of
    shape (B, 1, H // 2^num_layers - 2, W // 2^num_layers - 2). The first has no norm. The number of channels doubles
    per layer, up to eight times ``base_channels``.

    Args:
        in_channels: Channels of the images; the command line links it to the data.
        base_channels: Channels of the first layer.
        num_layers: Layers of stride 2; height and width of the images must be at least 3 * 2^num_layers.
        norm: ``group`` (at most 32 groups), ``batch`` (VQ-GAN's published code; logits depend on the whole batch),
            ``spectral`` (of all convolutions, without norm layers: Miyato et al. 2018, arXiv:1802.05957), or ``none``.

    Example:
        >>> tuple(PatchGAN(base_channels=16)(torch.randn(2, 3, 32, 32)).shape)
        (2, 1, 2, 2)
    """

    def __init__(
        self,
        in_channels: Count = 3,
        base_channels: Count = 64,
        num_layers: Count = 3,
        norm: Literal["group", "batch", "spectral", "none"] = "group",
    ) -> None:
        super().__init__()
        self.in_channels, self.num_layers = in_channels, num_layers
        widths = [base_channels * min(2**level, 8) for level in range(num_layers + 1)]
        layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for level in range(1, num_layers + 1):
            stride = 2 if level < num_layers else 1
            bias = norm != "batch"  # batch norm removes the mean of each channel
            layers.append(nn.Conv2d(widths[level - 1], widths[level], 4, stride, padding=1, bias=bias))
            if norm in ("group", "batch"):
                layers.append(group_norm(widths[level]) if norm == "group" else nn.BatchNorm2d(widths[level]))
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, stride=1, padding=1))
        for layer in self.layers:
            draw_weights(layer)
            if norm == "spectral" and isinstance(layer, nn.Conv2d):
                normalise(layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[-1](self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Return the input of the last layer, (B, F, h + 1, w + 1)."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            shape = f"(B, {self.in_channels}, H, W)"
            raise UserError(f"images must be {shape}, got {tuple(x.shape)}: set in_channels of PatchGAN")
        self.check_size(*x.shape[2:])
        return self.layers[:-1](x)

    def check_size(self, height: int, width: int) -> None:
        """Raise UserError if images of this size are too small."""
        smallest = 3 * 2**self.num_layers  # the last two layers remove one pixel each, and one must remain
        if min(height, width) < smallest:
            found = f"images of {height}x{width} are too small for a PatchGAN with num_layers={self.num_layers}"
            raise UserError(f"{found}: set image_size={smallest}, or use fewer layers")


class DiscriminatorOutput(NamedTuple):
    """Output for B images."""

    features: Tensor  # (B, F)
    logits: Tensor  # (B, K + 1), the last for generated images
    real_logits: Tensor  # (B,), high for real images


class SGANDiscriminator(nn.Module):
    """Heads for classes and for real or generated, on the features of images.

    Args:
        net: Network to features.
        num_classes: Number of classes, K.
        head: ``kplus1``, K + 1 logits and an adversarial logit; ``logsumexp``, K logits, 0 for generated images, and
            the log-sum-exp of the K as the adversarial logit (Salimans et al. 2016, arXiv:1606.03498, section 5).
        spectral_norm: Spectral norm for all layers except the class head (Miyato et al. 2018, arXiv:1802.05957).
        weight_norm: Weight normalization of all layers, with constant scales except those of the class head
            (Salimans et al. 2016); ``init_from_data`` sets the scales.

    Raises:
        UserError: If both norms are chosen.

    Example:
        >>> from vqlab.nn import ConvFeatures
        >>> tuple(SGANDiscriminator(ConvFeatures(), num_classes=10)(torch.randn(2, 1, 32, 32)).logits.shape)
        (2, 11)
    """

    def __init__(
        self,
        net: FeatureNet,
        num_classes: int,
        head: Literal["kplus1", "logsumexp"] = "kplus1",
        spectral_norm: bool = False,
        weight_norm: bool = False,
    ) -> None:
        super().__init__()
        if spectral_norm and weight_norm:
            raise UserError("spectral_norm and weight_norm must not both be true: choose one")
        self.net = net
        self.class_head = nn.Linear(net.out_features, num_classes + (head == "kplus1"))
        draw_weights(self.class_head)
        self.adversarial_head = nn.Linear(net.out_features, 1) if head == "kplus1" else None
        if self.adversarial_head is not None:
            draw_weights(self.adversarial_head)
        for part in list(self.modules()) if spectral_norm else []:
            if isinstance(part, nn.Linear | nn.Conv2d) and part is not self.class_head:
                normalise(part)
        if weight_norm:
            normalize_weights(self, learn_scale=self.class_head)

    def forward(self, x: Tensor) -> DiscriminatorOutput:
        """Return the logits of images ``x`` (B, C, H, W)."""
        features = self.net(x)
        logits = self.class_head(features)
        if self.adversarial_head is not None:
            return DiscriminatorOutput(features, logits, self.adversarial_head(features)[:, 0])
        logits = F.pad(logits, (0, 1))
        return DiscriminatorOutput(features, logits, real_logit(logits))


def real_logit(logits: Tensor) -> Tensor:
    """Return log p(real) - log p(generated), (B,), of logits (B, K + 1) of K classes and of generated images."""
    logits = upcast(logits)
    return logits[:, :-1].logsumexp(1) - logits[:, -1]


class GlyphDiscriminatorOutput(NamedTuple):
    """Output for B pairs."""

    real_logits: Tensor  # (B, 1, h, w), high for patches of the target font
    styles: Tensor  # (B, num_styles) logits


class GlyphDiscriminator(ConfigMixin, nn.Module):
    """A PatchGAN on pairs of a source glyph and a candidate, and a linear style classifier on its mean features.

    Args:
        num_styles: Number of styles; the command line links it to the data.
        base_channels: Channels of the first layer.
        num_layers: Layers of stride 2; height and width of the glyphs must be at least 3 * 2^num_layers.
        norm: As in ``PatchGAN``; ``spectral`` does not constrain the style classifier.

    Example:
        >>> output = GlyphDiscriminator(num_styles=3)(torch.zeros(2, 1, 64, 64), torch.zeros(2, 1, 64, 64))
        >>> tuple(output.real_logits.shape), tuple(output.styles.shape)
        ((2, 1, 6, 6), (2, 3))
    """

    def __init__(
        self,
        num_styles: Count = 1,
        base_channels: Count = 32,
        num_layers: Count = 3,
        norm: Literal["group", "batch", "spectral", "none"] = "group",
    ) -> None:
        super().__init__()
        self.num_styles = num_styles
        self.patches = PatchGAN(2, base_channels, num_layers, norm)
        last: nn.Conv2d = self.patches.layers[-1]  # type: ignore[assignment]
        self.style_head = nn.Linear(last.in_channels, num_styles)
        draw_weights(self.style_head)

    def forward(self, source: Tensor, candidate: Tensor) -> GlyphDiscriminatorOutput:
        """Return the logits of pairs of glyphs, (B, 1, S, S) each."""
        features = self.patches.features(torch.cat([source, candidate], 1))
        return GlyphDiscriminatorOutput(self.patches.layers[-1](features), self.style_head(features.mean((2, 3))))


def check_fit(generator: UNet, discriminator: GlyphDiscriminator | None, num_styles: int, image_size: int) -> None:
    """Raise UserError if a network is made for other glyphs or styles, or if the glyphs are too small."""
    if generator.image_size != image_size:
        raise UserError(f"glyphs have size {image_size}, the generator {generator.image_size}: make both the same")
    for name, part in (("generator", generator), ("discriminator", discriminator)):
        if part is not None and part.num_styles != num_styles:
            raise UserError(f"there are {num_styles} styles, and the {name} is made for {part.num_styles}")
    if discriminator is not None:
        discriminator.patches.check_size(image_size, image_size)
