"""The small autoencoder of the VQ-VAE paper (van den Oord et al. 2017, arXiv:1711.00937, section 4.1)."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.autoencoders.conv import OutActivation, activation, check_divisible
from vqlab.nn.base import Decoder, Encoder
from vqlab.nn.layer_counts import check_layers


class SmallEncoder(Encoder):
    """Strided 4x4 convolutions, then residual blocks.

    The paper has 256 hidden units throughout; the defaults are those of the authors' published code (128 and 32).

    Args:
        in_channels: Channels of the images; the command line links it to the data.
        hidden_channels: Channels of the features.
        res_channels: Channels inside the residual blocks.
        num_res_blocks: Number of residual blocks.
        downsampling: Factor between image and feature size, a power of 2.

    Shape:
        input (B, in_channels, H, W) with H and W divisible by ``downsampling``;
        output (B, hidden_channels, H / downsampling, W / downsampling).

    Example:
        >>> import torch
        >>> tuple(SmallEncoder()(torch.randn(1, 3, 32, 32)).shape)
        (1, 128, 8, 8)
    """

    def __init__(
        self,
        in_channels: int = 3,
        hidden_channels: int = 128,
        res_channels: int = 32,
        num_res_blocks: int = 2,
        downsampling: int = 4,
    ) -> None:
        super().__init__()
        _check_sizes(hidden_channels, res_channels, num_res_blocks)
        halvings = _halvings(downsampling)
        self.in_channels, self.out_channels, self.downsampling = in_channels, hidden_channels, downsampling
        layers: list[nn.Module] = []
        channels = in_channels
        for level in range(halvings):
            width = hidden_channels // 2 if level == 0 else hidden_channels
            layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.Conv2d(channels, hidden_channels, 3, padding=1))
        layers += [Residual(hidden_channels, res_channels) for _ in range(num_res_blocks)]
        self.layers = nn.Sequential(*layers, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Encode images (B, C, H, W)."""
        check_divisible(x, self.downsampling)
        return self.layers(x)


class SmallDecoder(Decoder):
    """The mirror of :class:`SmallEncoder`: residual blocks, then transposed 4x4 convolutions.

    Args:
        out_channels: Channels of the images; the command line links it to the data.
        hidden_channels: Channels of the features.
        res_channels: Channels inside the residual blocks.
        num_res_blocks: Number of residual blocks.
        downsampling: Factor between image and feature size, a power of 2.
        out_activation: None (unrestricted), ``tanh`` for images in [-1, 1], ``sigmoid`` for [0, 1].

    Shape:
        input (B, hidden_channels, h, w); output (B, out_channels, h * downsampling, w * downsampling).
    """

    def __init__(
        self,
        out_channels: int = 3,
        hidden_channels: int = 128,
        res_channels: int = 32,
        num_res_blocks: int = 2,
        downsampling: int = 4,
        out_activation: OutActivation = None,
    ) -> None:
        super().__init__()
        _check_sizes(hidden_channels, res_channels, num_res_blocks)
        halvings = _halvings(downsampling)
        self.in_channels, self.out_channels, self.upsampling = hidden_channels, out_channels, downsampling
        layers: list[nn.Module] = [nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1)]
        layers += [Residual(hidden_channels, res_channels) for _ in range(num_res_blocks)]
        layers.append(nn.ReLU())
        channels = hidden_channels
        for _ in range(halvings - 1):
            layers += [nn.ConvTranspose2d(channels, hidden_channels // 2, 4, stride=2, padding=1), nn.ReLU()]
            channels = hidden_channels // 2
        self.body = nn.Sequential(*layers)
        last = nn.ConvTranspose2d(channels, out_channels, 4, stride=2, padding=1)
        self.head = nn.Sequential(last, activation(out_activation))

    def forward(self, z: Tensor) -> Tensor:
        """Decode features (B, hidden_channels, h, w)."""
        return self.head(self.body(z))


class Residual(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x))))."""

    def __init__(self, channels: int, res_channels: int) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(channels, res_channels, 3, padding=1)
        self.conv1 = nn.Conv2d(res_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to the same shape."""
        return x + self.conv1(F.relu(self.conv3(F.relu(x))))


def _halvings(downsampling: int) -> int:
    if downsampling < 2 or downsampling & (downsampling - 1):
        raise UserError(f"downsampling must be a power of 2 and at least 2, got {downsampling}: set it to 4")
    return int(math.log2(downsampling))


def _check_sizes(hidden_channels: int, res_channels: int, num_res_blocks: int) -> None:
    check_layers(num_res_blocks=num_res_blocks)
    if hidden_channels < 2 or res_channels < 1 or num_res_blocks < 0:
        raise UserError(
            "hidden_channels must be at least 2, res_channels at least 1 and num_res_blocks at least 0, got "
            f"{hidden_channels}, {res_channels}, {num_res_blocks}"
        )
