"""Convolutional generator and discriminator for small images, in the layout of a well-known semi-supervised GAN."""

from typing import Literal

from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.base import FeatureNet, Generator

SLOPE = 0.2  # of the leaky ReLUs below 0 (Radford et al. 2016, arXiv:1511.06434)
SPREAD = 0.02  # standard deviation of the initial weights (the same)


class ConvGenerator(Generator):
    """A linear layer to a map of a quarter of the size, and two convolutions, each behind an upsampling by 2.

    Batch norm and leaky ReLU, tanh at the end, weights from N(0, 0.02^2) (Radford et al. 2016, arXiv:1511.06434). An
    image whose size is not divisible by 4 is cut out of the middle of the next larger one.

    Args:
        latent_dim: Numbers of noise.
        out_channels: Channels of the images; the command line links it to the data.
        image_size: Height and width; linked to the data.
        base_channels: Channels of the first map; half of them in the last.

    Shape:
        input (B, latent_dim); output (B, out_channels, image_size, image_size) in [-1, 1].

    Raises:
        UserError: If a size is out of range.

    Example:
        >>> import torch
        >>> tuple(ConvGenerator()(torch.randn(2, 100)).shape)
        (2, 1, 32, 32)
    """

    def __init__(
        self, latent_dim: int = 100, out_channels: int = 1, image_size: int = 32, base_channels: int = 128
    ) -> None:
        super().__init__()
        check_sizes("generator", latent_dim=latent_dim, out_channels=out_channels, image_size=image_size)
        if base_channels < 2:
            raise UserError(
                f"base_channels must be at least 2, got {base_channels}: set --model.generator.base_channels=128"
            )
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
        """Draw images from noise (B, latent_dim)."""
        images = self.layers(z)
        edge = (images.shape[-1] - self.image_size) // 2
        return images[..., edge : edge + self.image_size, edge : edge + self.image_size]


class ConvFeatures(FeatureNet):
    """Convolutions that halve the size, each with leaky ReLU, dropout of whole channels, and batch norm but the first.

    Args:
        in_channels: Channels of the images; the command line links it to the data.
        image_size: Height and width; linked to the data. Any size will do: 28 becomes 14, 7, 4, 2.
        channels: Of the convolutions, in order.
        dropout: Probability that a channel is left out.
        norm: ``batch``, or ``none``, as spectral norm wants it.

    Shape:
        input (B, in_channels, image_size, image_size); output (B, out_features).

    Raises:
        UserError: If a size or the dropout is out of range, or the images have another size.

    Example:
        >>> import torch
        >>> net = ConvFeatures()
        >>> net.out_features, tuple(net(torch.randn(2, 1, 32, 32)).shape)
        (512, (2, 512))
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 32,
        channels: tuple[int, ...] = (16, 32, 64, 128),
        dropout: float = 0.25,
        norm: Literal["batch", "none"] = "batch",
    ) -> None:
        super().__init__()
        check_sizes("discriminator", in_channels=in_channels, image_size=image_size, channels=min(channels, default=0))
        if not 0 <= dropout < 1:
            raise UserError(f"dropout must lie in [0, 1), got {dropout}: set --model.discriminator.dropout=0.25")
        if norm not in ("batch", "none"):
            raise UserError(f"norm must be batch or none, got {norm!r}: set --model.discriminator.norm=batch")
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

    def forward(self, x: Tensor) -> Tensor:
        """Describe images (B, in_channels, image_size, image_size)."""
        check_images(x, self.in_channels, self.image_size)
        return self.layers(x)


def draw_weights(part: nn.Module) -> None:
    """Draw the weights of a layer from N(0, 0.02^2), of batch norm from N(1, 0.02^2); biases are 0."""
    if isinstance(part, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
        nn.init.normal_(part.weight, 1.0 if isinstance(part, nn.BatchNorm2d) else 0.0, SPREAD)
        if part.bias is not None:
            nn.init.zeros_(part.bias)


def check_sizes(part: str, **sizes: int) -> None:
    """Raise UserError if a size of that part of the model is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"{name} must be at least 1, got {size}: set --model.{part}.{name}")


def check_images(x: Tensor, channels: int, size: int) -> None:
    """Raise UserError unless ``x`` is (B, channels, size, size)."""
    if x.ndim != 4 or tuple(x.shape[1:]) != (channels, size, size):
        raise UserError(
            f"images must be (B, {channels}, {size}, {size}), got {tuple(x.shape)}: set --data.image_size={size}, or "
            "build the model for these"
        )
