"""Fully connected generator and discriminator, as in the semi-supervised MNIST experiment of Salimans et al. 2016."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.base import FeatureNet, Generator
from vqlab.nn.gan.conv import check_images, check_sizes


class MLPGenerator(Generator):
    """Linear layers with batch norm and softplus, and one to tanh (Salimans et al. 2016, arXiv:1606.03498, MNIST).

    Args:
        latent_dim: Numbers of noise.
        out_channels: Channels of the images; the command line links it to the data.
        image_size: Height and width; linked to the data.
        hidden_features: Widths of the layers.

    Shape:
        input (B, latent_dim); output (B, out_channels, image_size, image_size) in [-1, 1].

    Raises:
        UserError: If a size is below 1.

    Example:
        >>> tuple(MLPGenerator()(torch.randn(2, 100)).shape)
        (2, 1, 28, 28)
    """

    def __init__(
        self,
        latent_dim: int = 100,
        out_channels: int = 1,
        image_size: int = 28,
        hidden_features: tuple[int, ...] = (500, 500),
    ) -> None:
        super().__init__()
        sizes = {"latent_dim": latent_dim, "out_channels": out_channels, "image_size": image_size}
        check_sizes("generator", **sizes, hidden_features=min(hidden_features, default=1))
        self.latent_dim, self.out_channels, self.image_size = latent_dim, out_channels, image_size
        widths = [latent_dim, *hidden_features]
        layers: list[nn.Module] = []
        for width, next_width in pairwise(widths):
            layers += [nn.Linear(width, next_width), nn.BatchNorm1d(next_width), nn.Softplus()]
        image = (out_channels, image_size, image_size)
        self.layers = nn.Sequential(
            *layers, nn.Linear(widths[-1], out_channels * image_size**2), nn.Unflatten(1, image), nn.Tanh()
        )

    def forward(self, z: Tensor) -> Tensor:
        """Draw images from noise (B, latent_dim)."""
        return self.layers(z)


class MLPFeatures(FeatureNet):
    """Linear layers with ReLUs, and noise on the image and on each layer while training.

    Salimans et al. 2016 (arXiv:1606.03498, MNIST), whose layers have weight norm besides.

    Args:
        in_channels: Channels of the images; the command line links it to the data.
        image_size: Height and width; linked to the data.
        hidden_features: Widths of the layers; the last is that of the features.
        input_noise: Standard deviation of the noise on the image, whose range is 1 wide in the paper and here 2.
        noise: Standard deviation of the noise on each layer.

    Shape:
        input (B, in_channels, image_size, image_size); output (B, out_features).

    Raises:
        UserError: If a size is below 1, a noise is negative, or the images have another size.

    Example:
        >>> net = MLPFeatures()
        >>> net.out_features, tuple(net(torch.randn(2, 1, 28, 28)).shape)
        (250, (2, 250))
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 28,
        hidden_features: tuple[int, ...] = (1000, 500, 250, 250, 250),
        input_noise: float = 0.3,
        noise: float = 0.5,
    ) -> None:
        super().__init__()
        sizes = {"in_channels": in_channels, "image_size": image_size}
        check_sizes("discriminator", **sizes, hidden_features=min(hidden_features, default=0))
        for name, std in (("input_noise", input_noise), ("noise", noise)):
            if not 0 <= std < float("inf"):
                raise UserError(f"{name} must be finite and not negative, got {std}: set --model.discriminator.{name}")
        self.in_channels, self.image_size, self.out_features = in_channels, image_size, hidden_features[-1]
        layers: list[nn.Module] = [nn.Flatten(), GaussianNoise(input_noise)]
        for width, next_width in pairwise([in_channels * image_size**2, *hidden_features]):
            layers += [nn.Linear(width, next_width), nn.ReLU(), GaussianNoise(noise)]
        self.layers = nn.Sequential(*layers[:-1])  # the features themselves are without

    def forward(self, x: Tensor) -> Tensor:
        """Describe images (B, in_channels, image_size, image_size)."""
        check_images(x, self.in_channels, self.image_size)
        return self.layers(x)


class GaussianNoise(nn.Module):
    """Add noise of standard deviation ``std`` while training."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        """Add noise to ``x`` of any shape."""
        return x + self.std * torch.randn_like(x) if self.training and self.std else x
