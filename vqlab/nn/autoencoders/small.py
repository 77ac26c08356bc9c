"""Small autoencoders for images: that of the VQ-VAE paper, and the MLPs of JSA's MNIST experiments."""

from itertools import pairwise
from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.autoencoders.conv import ACTIVATIONS, OutActivation
from vqlab.nn.base import Decoder, Encoder, check_image
from vqlab.validation import Count, NonNegativeInt, Range


class SmallEncoder(Encoder):
    """Strided 4x4 convolutions, then residual blocks; the defaults are those of the authors' code.

    Args:
        in_channels: Channels of the images; the command line links it to the data.
        hidden_channels: Channels of the features.
        res_channels: Channels inside the residual blocks.
        num_res_blocks: Number of residual blocks.
        downsampling: Factor between image and feature size, a power of 2.

    Example:
        >>> import torch
        >>> tuple(SmallEncoder()(torch.randn(1, 3, 32, 32)).shape)
        (1, 128, 8, 8)
    """

    def __init__(
        self,
        in_channels: Count = 3,
        hidden_channels: Annotated[int, Range(2)] = 128,
        res_channels: Count = 32,
        num_res_blocks: NonNegativeInt = 2,
        downsampling: int = 4,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.downsampling = in_channels, hidden_channels, downsampling
        widths = [in_channels, hidden_channels // 2] + [hidden_channels] * (halvings(downsampling) - 1)
        layers: list[nn.Module] = []
        for width, next_width in pairwise(widths):
            layers += [nn.Conv2d(width, next_width, 4, stride=2, padding=1), nn.ReLU()]
        layers.append(nn.Conv2d(widths[-1], hidden_channels, 3, padding=1))
        layers += [Residual(hidden_channels, res_channels) for _ in range(num_res_blocks)]
        self.layers = nn.Sequential(*layers, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        check_image(x, self.downsampling)
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
    """

    def __init__(
        self,
        out_channels: Count = 3,
        hidden_channels: Annotated[int, Range(2)] = 128,
        res_channels: Count = 32,
        num_res_blocks: NonNegativeInt = 2,
        downsampling: int = 4,
        out_activation: OutActivation = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.upsampling = hidden_channels, out_channels, downsampling
        layers: list[nn.Module] = [nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1)]
        layers += [Residual(hidden_channels, res_channels) for _ in range(num_res_blocks)]
        layers.append(nn.ReLU())
        widths = [hidden_channels] + [hidden_channels // 2] * (halvings(downsampling) - 1)
        for width, next_width in pairwise(widths):
            layers += [nn.ConvTranspose2d(width, next_width, 4, stride=2, padding=1), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        last = nn.ConvTranspose2d(widths[-1], out_channels, 4, stride=2, padding=1)
        self.head = nn.Sequential(last, ACTIVATIONS[out_activation]())


class Residual(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x))))."""

    def __init__(self, channels: int, res_channels: int) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(channels, res_channels, 3, padding=1)
        self.conv1 = nn.Conv2d(res_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv1(F.relu(self.conv3(F.relu(x))))


def halvings(downsampling: int) -> int:
    """Return log2 of ``downsampling``, or raise UserError if it is no power of 2 above 1."""
    if downsampling < 2 or downsampling & (downsampling - 1):
        raise UserError(f"downsampling must be a power of 2 and at least 2, got {downsampling}")
    return downsampling.bit_length() - 1


SLOPE = 0.2  # of LeakyReLU for x < 0, from the authors' published code


class MLPEncoder(Encoder):
    """Linear layers with LeakyReLU from a flattened image to one vector, a feature map of size 1 x 1.

    The model adds a linear layer. With the defaults and 200 logits this is the paper's network, 784-512-256-200.

    Args:
        in_channels: Channels of the images; the command line links it to the data.
        image_size: Height and width of the images; linked to the data.
        hidden_channels: Widths of the layers before the last, in order.
        out_channels: Channels of the features, the width of the last layer.

    Example:
        >>> import torch
        >>> tuple(MLPEncoder()(torch.rand(2, 1, 28, 28)).shape)
        (2, 256, 1, 1)
    """

    def __init__(
        self,
        in_channels: Count = 1,
        image_size: Count = 28,
        hidden_channels: tuple[Count, ...] = (512,),
        out_channels: Count = 256,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.downsampling = in_channels, out_channels, image_size
        layers: list[nn.Module] = [nn.Flatten()]
        for width, next_width in pairwise([in_channels * image_size**2, *hidden_channels, out_channels]):
            layers += [nn.Linear(width, next_width), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*layers, nn.Unflatten(1, (out_channels, 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        height, width, size = *x.shape[-2:], self.downsampling
        if not height == width == size:
            found = f"images of {height}x{width}, but the encoder is made for {size}x{size}"
            raise UserError(f"{found}: set image_size={size}, or another encoder")
        return self.layers(x)


class MLPDecoder(Decoder):
    """The mirror of :class:`MLPEncoder`: linear layers with LeakyReLU from one vector to an image.

    It begins with an activation, because the model adds a linear layer before it: 200-256-512-784 in the paper.

    Args:
        out_channels: Channels of the images; the command line links it to the data.
        image_size: Height and width of the images; linked to the data.
        hidden_channels: Widths of the layers before the last, in order.
        in_channels: Channels of the features.
        out_activation: None (unrestricted), ``tanh`` for images in [-1, 1], ``sigmoid`` for [0, 1].
    """

    def __init__(
        self,
        out_channels: Count = 1,
        image_size: Count = 28,
        hidden_channels: tuple[Count, ...] = (512,),
        in_channels: Count = 256,
        out_activation: OutActivation = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.upsampling = in_channels, out_channels, image_size
        widths, shape = [in_channels, *hidden_channels], (out_channels, image_size, image_size)
        layers: list[nn.Module] = [nn.Flatten(), nn.LeakyReLU(SLOPE)]
        for width, next_width in pairwise(widths):
            layers += [nn.Linear(width, next_width), nn.LeakyReLU(SLOPE)]
        self.body = nn.Sequential(*layers)
        last = nn.Linear(widths[-1], out_channels * image_size**2)
        self.head = nn.Sequential(last, nn.Unflatten(1, shape), ACTIVATIONS[out_activation]())
