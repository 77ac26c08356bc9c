"""Generators and feature networks of semi-supervised GANs for small images, convolutional and fully connected."""

from itertools import pairwise
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from vqlab.nn.base import FeatureNet, Generator
from vqlab.validation import Count, NonNegative, Probability, Range

SLOPE, INIT_STD = 0.2, 0.02  # of LeakyReLU for x < 0; of the initial weights (arXiv:1511.06434)


class ConvGenerator(Generator):
    """A linear layer to a map of a quarter of the size, then two convolutions, each after upsampling by 2.

    Batch norm, LeakyReLU and tanh (Radford et al. 2016, arXiv:1511.06434); sizes not divisible by 4 are cropped.

    Args:
        latent_dim: Dimension of the noise.
        out_channels: Channels of the images; the command line links it to the data.
        image_size: Height and width; linked to the data.
        base_channels: Channels of the first map; the last has half of them.

    Example:
        >>> tuple(ConvGenerator()(torch.randn(2, 100)).shape)
        (2, 1, 32, 32)
    """

    def __init__(
        self,
        latent_dim: Count = 100,
        out_channels: Count = 1,
        image_size: Count = 32,
        base_channels: Annotated[int, Range(2)] = 128,
    ) -> None:
        super().__init__()
        self.latent_dim, self.out_channels, self.image_size = latent_dim, out_channels, image_size
        first, start = base_channels, -(-image_size // 4)
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, first * start**2),
            nn.Unflatten(1, (first, start, start)),
            nn.BatchNorm2d(first),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(first, first, 3, padding=1),
            nn.BatchNorm2d(first),
            nn.LeakyReLU(SLOPE),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(first, first // 2, 3, padding=1),
            nn.BatchNorm2d(first // 2),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(first // 2, out_channels, 3, padding=1),
            nn.Tanh(),
        )
        self.apply(draw_weights)

    def forward(self, z: Tensor) -> Tensor:
        images, size = self.layers(z), self.image_size
        edge = (images.shape[-1] - size) // 2
        return images[..., edge : edge + size, edge : edge + size]


class ConvFeatures(FeatureNet):
    """Strided convolutions, each with LeakyReLU, channel dropout and batch norm (the first without norm).

    Args:
        in_channels: Channels of the images; the command line links it to the data.
        image_size: Height and width, any number; linked to the data.
        channels: Channels of the convolutions, in order.
        dropout: Probability of dropping a channel.
        norm: ``batch``, or ``none`` for use with spectral norm.

    Example:
        >>> tuple(ConvFeatures()(torch.randn(2, 1, 32, 32)).shape)
        (2, 512)
    """

    def __init__(
        self,
        in_channels: Count = 1,
        image_size: Count = 32,
        channels: tuple[Count, ...] = (16, 32, 64, 128),
        dropout: Probability = 0.25,
        norm: Literal["batch", "none"] = "batch",
    ) -> None:
        super().__init__()
        self.in_channels, self.image_size = in_channels, image_size
        layers: list[nn.Module] = []
        side, width = image_size, in_channels
        for number, next_width in enumerate(channels):
            layers += [nn.Conv2d(width, next_width, 3, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
            layers += [nn.Dropout2d(dropout)] * (dropout > 0)
            layers += [nn.BatchNorm2d(next_width)] * (norm == "batch" and number > 0)
            side, width = -(-side // 2), next_width
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.out_features = width * side**2
        self.apply(draw_weights)


def draw_weights(part: nn.Module) -> None:
    """Draw the weights of a layer from N(0, 0.02^2), the scales of a norm from N(1, 0.02^2); set biases to 0."""
    if isinstance(part, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.GroupNorm):
        nn.init.normal_(part.weight, float(isinstance(part, nn.BatchNorm2d | nn.GroupNorm)), INIT_STD)
        if part.bias is not None:
            nn.init.zeros_(part.bias)


class MLPGenerator(Generator):
    """Linear layers with batch norm and softplus, then a linear layer and a sigmoid (Salimans et al. 2016, MNIST).

    The sigmoid is scaled to [-1, 1]: tanh(x / 2). Its slope matters: with tanh(x), the discriminator wins early.

    Args:
        latent_dim: Dimension of the noise.
        out_channels: Channels of the images; the command line links it to the data.
        image_size: Height and width; linked to the data.
        hidden_features: Widths of the hidden layers.

    Example:
        >>> tuple(MLPGenerator()(torch.randn(2, 100)).shape)
        (2, 1, 28, 28)
    """

    def __init__(
        self,
        latent_dim: Count = 100,
        out_channels: Count = 1,
        image_size: Count = 28,
        hidden_features: tuple[Count, ...] = (500, 500),
    ) -> None:
        super().__init__()
        self.latent_dim, self.out_channels, self.image_size = latent_dim, out_channels, image_size
        widths = [latent_dim, *hidden_features]
        layers: list[nn.Module] = []
        for width, next_width in pairwise(widths):
            layers += [nn.Linear(width, next_width), nn.BatchNorm1d(next_width), nn.Softplus()]
        last = nn.Linear(widths[-1], out_channels * image_size**2)
        self.layers = nn.Sequential(*layers, last, nn.Unflatten(1, (out_channels, image_size, image_size)))

    def forward(self, z: Tensor) -> Tensor:
        return (self.layers(z) / 2).tanh()


class MLPFeatures(FeatureNet):
    """Linear layers with ReLU, and noise in training (Salimans et al. 2016, arXiv:1606.03498).

    Args:
        in_channels: Channels of the images; the command line links it to the data.
        image_size: Height and width; linked to the data.
        hidden_features: Widths of the layers; the last is that of the features.
        input_noise: Standard deviation of the noise on the image; 0.3 is the paper's for images in [0, 1].
        noise: Standard deviation of the noise on each layer.

    Example:
        >>> tuple(MLPFeatures()(torch.randn(2, 1, 28, 28)).shape)
        (2, 250)
    """

    def __init__(
        self,
        in_channels: Count = 1,
        image_size: Count = 28,
        hidden_features: tuple[Count, ...] = (1000, 500, 250, 250, 250),
        input_noise: NonNegative = 0.3,
        noise: NonNegative = 0.5,
    ) -> None:
        super().__init__()
        widths = [in_channels * image_size**2, *hidden_features]
        self.in_channels, self.image_size, self.out_features = in_channels, image_size, widths[-1]
        layers: list[nn.Module] = [nn.Flatten(), GaussianNoise(input_noise)]
        for width, next_width in pairwise(widths):
            layers += [nn.Linear(width, next_width), nn.ReLU(), GaussianNoise(noise)]
        self.layers = nn.Sequential(*layers[:-1])  # without noise on the features


class GaussianNoise(nn.Module):
    """Add noise with standard deviation ``std`` in training."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        return x + self.std * torch.randn_like(x) if self.training and self.std else x
