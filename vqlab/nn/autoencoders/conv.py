"""The residual convolutional autoencoder of VQ-GAN (Esser et al. 2021, arXiv:2012.09841, table 7)."""

import math
from collections import OrderedDict
from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.base import Decoder, Encoder, check_image
from vqlab.validation import Count, NonNegativeInt, Probability

OutActivation = Literal["tanh", "sigmoid"] | None
ACTIVATIONS: dict[OutActivation, type[nn.Module]] = {None: nn.Identity, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


class ConvEncoder(Encoder):
    """Images to features, downsampled by 2^(len(channel_multipliers) - 1).

    Args:
        in_channels: Channels of the images; the command line links it to the data.
        base_channels: Channels at full resolution.
        channel_multipliers: Channels of each resolution, from full to lowest, as multiples of ``base_channels``.
        num_res_blocks: Residual blocks per resolution.
        z_channels: Channels of the features.
        attention: Self-attention between the two last residual blocks, at the lowest resolution.
        attention_levels: Resolutions, 0 the full one, at which self-attention follows each residual block.
        dropout: Dropout inside the residual blocks.

    Example:
        >>> import torch
        >>> tuple(ConvEncoder(base_channels=32)(torch.randn(1, 3, 32, 32)).shape)
        (1, 256, 8, 8)
    """

    def __init__(
        self,
        in_channels: Count = 3,
        base_channels: Count = 64,
        channel_multipliers: tuple[Count, ...] = (1, 2, 4),
        num_res_blocks: Count = 2,
        z_channels: Count = 256,
        attention: bool = False,
        attention_levels: tuple[NonNegativeInt, ...] = (),
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        check_levels(channel_multipliers, attention_levels)
        self.in_channels, self.out_channels = in_channels, z_channels
        self.downsampling = 2 ** (len(channel_multipliers) - 1)
        widths = [base_channels * m for m in channel_multipliers]
        layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[0], 3, padding=1)]
        for level, (channels, width) in enumerate(pairwise([widths[0], *widths])):
            if level > 0:
                layers.append(downsample(channels))
            layers += res_blocks(num_res_blocks, channels, width, level in attention_levels, dropout)
        layers += [*res_blocks(1, width, width, attention, dropout), ResBlock(width, width, dropout)]
        self.layers = nn.Sequential(*layers, norm(width), nn.SiLU(), nn.Conv2d(width, z_channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        check_image(x, self.downsampling)
        return self.layers(x)


class ConvDecoder(Decoder):
    """The mirror of :class:`ConvEncoder`, features to images, with one residual block more per resolution.

    Args:
        out_channels: Channels of the images; the command line links it to the data.
        base_channels: Channels at full resolution.
        channel_multipliers: Channels of each resolution, from full to lowest, as multiples of ``base_channels``.
        num_res_blocks: Residual blocks per resolution of the encoder.
        z_channels: Channels of the features.
        attention: Self-attention between the two first residual blocks, at the lowest resolution.
        attention_levels: Resolutions, 0 the full one, at which self-attention follows each residual block.
        dropout: Dropout inside the residual blocks.
        out_activation: None (unrestricted), ``tanh`` for images in [-1, 1], ``sigmoid`` for [0, 1].
    """

    def __init__(
        self,
        out_channels: Count = 3,
        base_channels: Count = 64,
        channel_multipliers: tuple[Count, ...] = (1, 2, 4),
        num_res_blocks: Count = 2,
        z_channels: Count = 256,
        attention: bool = False,
        attention_levels: tuple[NonNegativeInt, ...] = (),
        dropout: Probability = 0.0,
        out_activation: OutActivation = None,
    ) -> None:
        super().__init__()
        check_levels(channel_multipliers, attention_levels)
        self.in_channels, self.out_channels = z_channels, out_channels
        self.upsampling = 2 ** (len(channel_multipliers) - 1)
        widths = [base_channels * m for m in reversed(channel_multipliers)]
        layers: list[nn.Module] = [nn.Conv2d(z_channels, widths[0], 3, padding=1)]
        layers += res_blocks(1, widths[0], widths[0], attention, dropout)
        layers.append(ResBlock(widths[0], widths[0], dropout))
        for level, (channels, width) in enumerate(pairwise([widths[0], *widths])):
            if level > 0:
                layers.append(upsample(channels))
            attends = len(widths) - 1 - level in attention_levels
            layers += res_blocks(num_res_blocks + 1, channels, width, attends, dropout)
        self.body = nn.Sequential(*layers, norm(widths[-1]), nn.SiLU())
        self.head = nn.Sequential(nn.Conv2d(widths[-1], out_channels, 3, padding=1), ACTIVATIONS[out_activation]())


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1 convolution of x if the widths differ."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(
            norm(in_channels),
            nn.SiLU(),
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            norm(out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.body(x)


class SelfAttention(nn.Module):
    """x + proj(attention(norm(x))) over the positions of (B, C, H, W), with one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(self.norm(x)), "b (three c) h w -> three b (h w) c", three=3)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj(rearrange(y, "b (h w) c -> b c h w", h=x.shape[2]))


def downsample(channels: int) -> nn.Module:
    """Halve the size by a strided convolution, padded only at the right and bottom as in VQ-GAN."""
    return nn.Sequential(OrderedDict(pad=nn.ZeroPad2d((0, 1, 0, 1)), conv=nn.Conv2d(channels, channels, 3, stride=2)))


def upsample(channels: int) -> nn.Module:
    """Double the size by nearest-neighbour interpolation and a convolution, without checkerboard artifacts."""
    conv = nn.Conv2d(channels, channels, 3, padding=1)
    return nn.Sequential(OrderedDict(copies=nn.Upsample(scale_factor=2.0, mode="nearest"), conv=conv))


def res_blocks(num: int, channels: int, width: int, attention: bool, dropout: float) -> list[nn.Module]:
    """Return the residual blocks of one resolution, each followed by self-attention if ``attention``."""
    layers: list[nn.Module] = []
    for number in range(num):
        layers.append(ResBlock(width if number else channels, width, dropout))
        if attention:
            layers.append(SelfAttention(width))
    return layers


def norm(channels: int) -> nn.GroupNorm:
    """Return a group norm with gcd(32, channels) groups."""
    return nn.GroupNorm(math.gcd(32, channels), channels, eps=1e-6)


def check_levels(channel_multipliers: tuple[int, ...], attention_levels: tuple[int, ...]) -> None:
    """Raise UserError if one of ``attention_levels`` does not exist."""
    if max(attention_levels, default=0) >= len(channel_multipliers):
        rule = f"must lie between 0 (full resolution) and {len(channel_multipliers) - 1}"
        raise UserError(f"attention_levels {rule} with these channel_multipliers, got {list(attention_levels)}")
