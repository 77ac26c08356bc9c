"""A discriminator of pairs of glyphs that also classifies the style."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.gan.conv import draw_weights
from vqlab.nn.gan.patchgan import PatchGAN
from vqlab.nn.unet import UNet
from vqlab.serialization import ConfigMixin
from vqlab.validation import Count


class GlyphDiscriminatorOutput(NamedTuple):
    """The output for B pairs."""

    real_logits: Tensor  # (B, 1, h, w), high where the patch looks like the target font
    styles: Tensor  # (B, num_styles) logits


class GlyphDiscriminator(ConfigMixin, nn.Module):
    """A PatchGAN on a source glyph and a candidate, and a linear style classifier on its mean features.

    zi2zi's discriminator flattens its map into fully connected layers for one image size; this one takes any size.

    Args:
        num_styles: Number of styles; the command line links it to the data.
        base_channels: Channels of the first layer.
        num_layers: Layers that halve the size; the images have at least 3 * 2^num_layers pixels a side.
        norm: ``group``, ``batch``, ``spectral`` or ``none``, as in :class:`~vqlab.nn.gan.patchgan.PatchGAN`;
            ``spectral`` does not constrain the style classifier.

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
        features = self.patches.features(torch.cat([source, candidate], 1))
        return GlyphDiscriminatorOutput(self.patches.layers[-1](features), self.style_head(features.mean((2, 3))))


def check_fit(generator: UNet, discriminator: GlyphDiscriminator | None, num_styles: int, image_size: int) -> None:
    """Raise UserError if a network is made for other glyphs or styles, or the glyphs are too small."""
    if generator.image_size != image_size:
        raise UserError(f"glyphs have size {image_size}, the generator {generator.image_size}: make both the same")
    for name, part in (("generator", generator), ("discriminator", discriminator)):
        if part is not None and part.num_styles != num_styles:
            raise UserError(f"there are {num_styles} styles, and the {name} is made for {part.num_styles}")
    if discriminator is not None:
        discriminator.patches.check_size(image_size, image_size)
