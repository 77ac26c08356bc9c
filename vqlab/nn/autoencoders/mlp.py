"""Fully connected networks for small images, as in JSA's MNIST experiments (Ou and Song 2020, arXiv:2005.14001)."""

from itertools import pairwise

from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.autoencoders.conv import OutActivation, activation
from vqlab.nn.base import Decoder, Encoder

SLOPE = 0.2  # of the leaky ReLU below 0, from the authors' published code


class MLPEncoder(Encoder):
    """Linear layers with leaky ReLUs from a flattened image to one vector, which is a map of 1 x 1.

    There is an activation behind the last layer too, because the model puts a 1x1 convolution behind the encoder, which
    for a vector is a linear layer: with the defaults and 200 logits 784-512-256-200, the paper's inference network.

    Args:
        in_channels: Channels of the images; the command line links it to the data.
        image_size: Height and width of the images; linked to the data.
        hidden_channels: Widths of the layers before the last, in order; none leaves a single layer.
        out_channels: Channels of the features, the width of the last layer.

    Shape:
        input (B, in_channels, image_size, image_size); output (B, out_channels, 1, 1).

    Raises:
        UserError: If a size is below 1, or the images have another size.

    Example:
        >>> import torch
        >>> tuple(MLPEncoder()(torch.rand(2, 1, 28, 28)).shape)
        (2, 256, 1, 1)
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 28,
        hidden_channels: tuple[int, ...] = (512,),
        out_channels: int = 256,
    ) -> None:
        super().__init__()
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "image_size": image_size}
        _check_sizes("encoder", hidden_channels, **sizes)
        self.in_channels, self.out_channels, self.downsampling = in_channels, out_channels, image_size
        layers: list[nn.Module] = [nn.Flatten()]
        for width, next_width in pairwise([in_channels * image_size**2, *hidden_channels, out_channels]):
            layers += [nn.Linear(width, next_width), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*layers, nn.Unflatten(1, (out_channels, 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Encode images (B, C, image_size, image_size)."""
        height, width = x.shape[-2:]
        if (height, width) != (self.downsampling, self.downsampling):
            raise UserError(
                f"images of {height}x{width}, but the encoder is made for {self.downsampling}x{self.downsampling}: "
                f"set --model.encoder.image_size, or --data.image_size={self.downsampling}"
            )
        return self.layers(x)


class MLPDecoder(Decoder):
    """The mirror of :class:`MLPEncoder`: linear layers with leaky ReLUs from one vector to an image.

    It begins with an activation, because the 1x1 convolution that the model puts in front of the decoder is its first
    linear layer: with the defaults and 200 numbers per code 200-256-512-784, the paper's generative network.

    Args:
        out_channels: Channels of the images; the command line links it to the data.
        image_size: Height and width of the images; linked to the data.
        hidden_channels: Widths of the layers before the last, in order; none leaves a single layer.
        in_channels: Channels of the features.
        out_activation: None (unrestricted), ``tanh`` for images in [-1, 1], ``sigmoid`` for [0, 1].

    Shape:
        input (B, in_channels, 1, 1); output (B, out_channels, image_size, image_size).

    Raises:
        UserError: If a size is below 1, the features are no vector, or the activation is unknown.

    Example:
        >>> import torch
        >>> tuple(MLPDecoder(hidden_channels=(256, 512))(torch.randn(2, 256, 1, 1)).shape)
        (2, 1, 28, 28)
    """

    def __init__(
        self,
        out_channels: int = 1,
        image_size: int = 28,
        hidden_channels: tuple[int, ...] = (512,),
        in_channels: int = 256,
        out_activation: OutActivation = None,
    ) -> None:
        super().__init__()
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "image_size": image_size}
        _check_sizes("decoder", hidden_channels, **sizes)
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
        """Decode features (B, in_channels, 1, 1)."""
        height, width = z.shape[-2:]
        if (height, width) != (1, 1):
            size = f"{height * self.upsampling}x{width * self.upsampling}"
            raise UserError(
                f"a map of {height}x{width}, as for images of {size}, but the decoder is made for one vector and "
                f"{self.upsampling}x{self.upsampling}: set --model.decoder.image_size, or "
                f"--data.image_size={self.upsampling}"
            )
        return self.head(self.body(z))


def _check_sizes(part: str, hidden_channels: tuple[int, ...], **sizes: int) -> None:
    for name, size in {**sizes, "hidden_channels": min(hidden_channels, default=1)}.items():
        if size < 1:
            usual = "[512]" if name == "hidden_channels" else "1 or more"
            raise UserError(f"{name} must be at least 1, got {size}: set --model.{part}.{name}={usual}")
