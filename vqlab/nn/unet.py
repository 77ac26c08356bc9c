"""A U-Net from a glyph to the same glyph in another style, as in zi2zi and pix2pix (Isola et al. 2017)."""

from functools import partial
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.serialization import ConfigMixin
from vqlab.validation import Count, Probability, Range

SLOPE = 0.2  # of LeakyReLU for x < 0
WIDEST = 8  # channels of the deeper maps over base_channels
DROPPED = 3  # number of the deepest maps of the decoder that have dropout
COPY = 1.5  # weight of the source before tanh: the output of an untrained generator is the source, with ink tanh(1.5)


class UNet(ConfigMixin, nn.Module):
    """Convolutions from a glyph down to one position, the code, and back up, with skip connections at all sizes.

    The style embedding is concatenated to the code. Unlike in zi2zi, the source is added to the output before tanh.

    Args:
        image_size: Height and width of the glyphs, a power of two; the command line links it to the data.
        num_styles: Number of styles; linked to the data.
        base_channels: Channels at half the size; twice as many at a quarter, and so on up to eight times.
        style_dim: Dimension of the style embedding.
        norm: ``instance``, ``batch`` or ``none``. With batch norm a glyph depends on the others in the batch.
        dropout: Probability of dropping a channel in the decoder's three deepest maps.

    Shape:
        source and output (B, 1, image_size, image_size) from -1, ink, to 1, paper; style (B,) int64, or mixing
        weights (B, num_styles) of the styles.

    Example:
        >>> tuple(UNet(image_size=32, num_styles=2)(torch.zeros(3, 1, 32, 32), torch.tensor([0, 1, 1])).shape)
        (3, 1, 32, 32)
    """

    def __init__(
        self,
        image_size: Annotated[int, Range(4)] = 64,
        num_styles: Count = 1,
        base_channels: Annotated[int, Range(2)] = 32,
        style_dim: Count = 128,
        norm: Literal["instance", "batch", "none"] = "instance",
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        if image_size & (image_size - 1):
            raise UserError(f"image_size must be a power of two for a UNet, got {image_size}: set image_size=64")
        self.image_size, self.num_styles = image_size, num_styles
        depth = image_size.bit_length() - 1
        widths = [base_channels // 2, *(base_channels * min(2**level, WIDEST) for level in range(depth))]
        instance_norm = partial(nn.InstanceNorm2d, affine=True)
        norms: dict[str, Any] = {"instance": instance_norm, "batch": nn.BatchNorm2d, "none": nn.Identity}
        self.stem = nn.Conv2d(1, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.LeakyReLU(SLOPE),
                nn.Conv2d(width, wider, 4, stride=2, padding=1),
                norms[norm if level < depth - 1 else "none"](wider),  # none at a single position
            )
            for level, (width, wider) in enumerate(pairwise(widths))
        )
        self.styles = nn.Embedding(num_styles, style_dim)  # N(0, 1): with zi2zi's 0.01 styles stay alike for long
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                nn.ConvTranspose2d(style_dim + wider if level == 0 else 2 * wider, width, 4, stride=2, padding=1),
                norms[norm](width),
                *[nn.Dropout2d(dropout)] * (dropout > 0 and level < DROPPED),
            )
            for level, (wider, width) in enumerate(pairwise(reversed(widths)))
        )
        self.last = nn.Conv2d(2 * widths[0], 1, 3, padding=1)

    def encode(self, source: Tensor) -> list[Tensor]:
        """Return the source and its feature maps, from the largest to the code (B, C, 1, 1)."""
        maps = [source, self.stem(source)]
        for layers in self.down:
            maps.append(layers(maps[-1]))
        return maps

    def decode(self, maps: list[Tensor], style: Tensor) -> Tensor:
        """Return glyphs (B, 1, S, S) from the output of :meth:`encode`."""
        source, *skips, code = maps
        embedding = style @ self.styles.weight if style.ndim == 2 else self.styles(style)
        x = torch.cat([code, embedding[:, :, None, None].to(code.dtype)], 1)
        for layers, same_size in zip(self.up, reversed(skips), strict=True):
            x = torch.cat([layers(x), same_size], 1)
        return torch.tanh(self.last(F.relu(x)) + COPY * source)

    def forward(self, source: Tensor, style: Tensor) -> Tensor:
        """Draw glyphs (B, 1, S, S) in ``style``: indices (B,), or weights of the styles (B, num_styles)."""
        return self.decode(self.encode(source), style)


def check_styles(style: Tensor, num_styles: int) -> None:
    """Raise UserError if a style (...,) int64 lies outside [0, num_styles)."""
    low, high = int(style.min()), int(style.max())
    if low < 0 or high >= num_styles:
        raise UserError(f"styles must lie in 0 .. {num_styles - 1}, got {low} to {high}: choose one of this model")
