"""Fully connected generator and feature network of the MNIST experiment of Salimans et al. 2016, arXiv:1606.03498."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from vqlab.nn.base import FeatureNet, Generator
from vqlab.nn.gan.conv import check_images
from vqlab.validation import Count, NonNegative


class MLPGenerator(Generator):
    """Linear layers with batch norm and softplus, then a linear layer and tanh (Salimans et al. 2016, MNIST).

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
        image = (out_channels, image_size, image_size)
        last = nn.Linear(widths[-1], out_channels * image_size**2)
        self.layers = nn.Sequential(*layers, last, nn.Unflatten(1, image), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


class MLPFeatures(FeatureNet):
    """Linear layers with ReLUs, and Gaussian noise on the image and on each layer while training.

    Salimans et al. 2016 (arXiv:1606.03498, MNIST), without their weight norm.

    Args:
        in_channels: Channels of the images; the command line links it to the data.
        image_size: Height and width; linked to the data.
        hidden_features: Widths of the layers; the last is that of the features.
        input_noise: Standard deviation of the noise on the image; the image range is 1 wide in the paper, here 2.
        noise: Standard deviation of the noise on each layer.

    Example:
        >>> net = MLPFeatures()
        >>> net.out_features, tuple(net(torch.randn(2, 1, 28, 28)).shape)
        (250, (2, 250))
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
        self.layers = nn.Sequential(*layers[:-1])  # no noise on the features

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.in_channels, self.image_size)
        return self.layers(x)


class GaussianNoise(nn.Module):
    """Add noise of standard deviation ``std`` while training."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        return x + self.std * torch.randn_like(x) if self.training and self.std else x
