"""Fully connected networks for small images, as in JSA's MNIST experiments (Ou and Song 2020, arXiv:2005.14001)."""

from itertools import pairwise

from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.autoencoders.conv import OutActivation, activation
from vqlab.nn.base import Decoder, Encoder
from vqlab.validation import Count

SLOPE = 0.2  # of the leaky ReLU below 0, from the authors' published code


class MLPEncoder(Encoder):
    """Linear layers with leaky ReLUs from a flattened image to one vector, which is a map of 1 x 1.

    The last layer has an activation too, because the model adds a 1x1 convolution, a linear layer for a single vector:
    with the defaults and 200 logits 784-512-256-200, the paper's inference network.

    Args:
        in_channels: Channels of the images; the command line links it to the data.
        image_size: Height and width of the images; linked to the data.
        hidden_channels: Widths of the layers before the last, in order; none leaves a single layer.
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
        size = self.downsampling
        if x.shape[-2:] != (size, size):
            raise UserError(
                f"images of {x.shape[-2]}x{x.shape[-1]}, but the encoder is made for {size}x{size}: "
                f"set image_size={size}, or build the encoder for these images"
            )
        return self.layers(x)


class MLPDecoder(Decoder):
    """The mirror of :class:`MLPEncoder`: linear layers with leaky ReLUs from one vector to an image.

    It begins with an activation, because the model's 1x1 convolution in front of the decoder is the first linear layer:
    with the defaults and 200 numbers per code 200-256-512-784, the paper's generative network.

    Args:
        out_channels: Channels of the images; the command line links it to the data.
        image_size: Height and width of the images; linked to the data.
        hidden_channels: Widths of the layers before the last, in order; none leaves a single layer.
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
        widths = [in_channels, *hidden_channels]
        layers: list[nn.Module] = [nn.Flatten(), nn.LeakyReLU(SLOPE)]
        for width, next_width in pairwise(widths):
            layers += [nn.Linear(width, next_width), nn.LeakyReLU(SLOPE)]
        self.body = nn.Sequential(*layers)
        last = nn.Linear(widths[-1], out_channels * image_size**2)
        image = nn.Unflatten(1, (out_channels, image_size, image_size))
        self.head = nn.Sequential(last, image, activation(out_activation))

    def forward(self, z: Tensor) -> Tensor:
        return self.head(self.body(z))
