"""An autoencoder for images whose layers all work at the resolution of the codes: patches and residual blocks."""

import torch
from torch import Tensor, nn

from vqlab.nn.autoencoders.conv import ACTIVATIONS, OutActivation
from vqlab.nn.base import Decoder, Encoder, check_image
from vqlab.validation import Count, NonNegativeInt


class PatchConvEncoder(Encoder):
    """Patches of ``downsampling`` x ``downsampling`` pixels as channels, a 3x3 convolution, then residual blocks.

    The blocks have no normalization: the last convolution of each begins with zero, so that a new network is linear
    (Zhang et al. 2019, arXiv:1901.09321). At the resolution of the codes a few 3x3 convolutions see the whole image.

    Args:
        in_channels: Channels of the images; the command line links it to the data.
        hidden_channels: Channels of the features.
        res_channels: Channels inside the residual blocks.
        num_res_blocks: Number of residual blocks.
        downsampling: Height and width of a patch.

    Example:
        >>> tuple(PatchConvEncoder()(torch.randn(1, 3, 32, 32)).shape)
        (1, 128, 8, 8)
    """

    def __init__(
        self,
        in_channels: Count = 3,
        hidden_channels: Count = 128,
        res_channels: Count = 64,
        num_res_blocks: NonNegativeInt = 2,
        downsampling: Count = 4,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.downsampling = in_channels, hidden_channels, downsampling
        patches = nn.Conv2d(in_channels * downsampling**2, hidden_channels, 3, padding=1)
        blocks = [ScaledResidual(hidden_channels, res_channels) for _ in range(num_res_blocks)]
        self.layers = nn.Sequential(nn.PixelUnshuffle(downsampling), ChannelsLast(), patches, *blocks, nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        check_image(x, self.downsampling)
        return self.layers(x)


class PatchConvDecoder(Decoder):
    """The mirror of :class:`PatchConvEncoder`: residual blocks, then a 3x3 convolution to the pixels of the patches.

    Args:
        out_channels: Channels of the images; the command line links it to the data.
        hidden_channels: Channels of the features.
        res_channels: Channels inside the residual blocks.
        num_res_blocks: Number of residual blocks.
        downsampling: Height and width of a patch.
        out_activation: None (unrestricted), ``tanh`` for images in [-1, 1], ``sigmoid`` for [0, 1].
    """

    def __init__(
        self,
        out_channels: Count = 3,
        hidden_channels: Count = 128,
        res_channels: Count = 64,
        num_res_blocks: NonNegativeInt = 6,
        downsampling: Count = 4,
        out_activation: OutActivation = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.upsampling = hidden_channels, out_channels, downsampling
        blocks = [ScaledResidual(hidden_channels, res_channels) for _ in range(num_res_blocks)]
        self.body = nn.Sequential(ChannelsLast(), *blocks, nn.SiLU())
        patches = nn.Conv2d(hidden_channels, out_channels * downsampling**2, 3, padding=1)
        self.head = nn.Sequential(patches, nn.PixelShuffle(downsampling), ACTIVATIONS[out_activation]())


class ScaledResidual(nn.Module):
    """x + conv3x3(silu(conv3x3(silu(x)))), where the last convolution begins with zero."""

    def __init__(self, channels: int, res_channels: int) -> None:
        super().__init__()
        first = nn.Conv2d(channels, res_channels, 3, padding=1)
        last = nn.Conv2d(res_channels, channels, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.body = nn.Sequential(nn.SiLU(), first, nn.SiLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ChannelsLast(nn.Module):
    """The features with channels as the last dimension in memory, in which convolutions are faster."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)
