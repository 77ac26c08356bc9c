"""The interfaces of networks: what a model needs to know of its encoder, decoder, discriminator and generator."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.serialization import ConfigMixin


class Encoder(ConfigMixin, nn.Module, ABC):
    """A network from images or signals to features.

    ``downsampling`` is the ratio of height and width (or length) of the images to those of the features.
    """

    in_channels: int  # of the images
    out_channels: int  # of the features
    downsampling: int
    modality = "image"  # or "signal" for (B, C, L)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / downsampling, W / downsampling)."""


class Decoder(ConfigMixin, nn.Module, ABC):
    """A network from features to images or signals.

    It consists of ``body`` and ``head``, which begins with the last layer with weights (for VQ-GAN's adaptive weight).
    """

    in_channels: int  # of the features
    out_channels: int  # of the images
    upsampling: int
    modality = "image"
    body: nn.Module
    head: nn.Module

    def forward(self, z: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, out_channels, h * upsampling, w * upsampling)."""
        return self.head(self.body(z))


class Discriminator(ConfigMixin, nn.Module, ABC):
    """A network from images to logits, one per patch.

    The logits are high for real images.
    """

    in_channels: int

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, 1, h, w)."""


class Generator(ConfigMixin, nn.Module, ABC):
    """A network from noise to images.

    The images are square, with height and width ``image_size``.
    """

    latent_dim: int
    out_channels: int
    image_size: int

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """(B, latent_dim) to (B, out_channels, image_size, image_size) in [-1, 1]."""


class FeatureNet(ConfigMixin, nn.Module, ABC):
    """A network from square images to feature vectors.

    It consists of ``layers``; the model adds the heads.
    """

    in_channels: int
    image_size: int
    out_features: int
    layers: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, image_size, image_size) to (B, out_features); UserError for other shapes."""
        if x.shape[1:] != (self.in_channels, self.image_size, self.image_size):
            shape = f"(B, {self.in_channels}, {self.image_size}, {self.image_size})"
            raise UserError(f"images must be {shape}, got {tuple(x.shape)}: set image_size={self.image_size}")
        return self.layers(x)


def check_divisible(what: str, sizes: Sequence[int], downsampling: int, setting: str) -> None:
    """Raise UserError if the ``sizes`` of ``what``, set by ``setting``, are not divisible by ``downsampling``."""
    if any(size % downsampling for size in sizes):
        nearest = downsampling * max(1, round(sizes[0] / downsampling))
        raise UserError(f"{what} not divisible by the encoder's downsampling {downsampling}: set {setting}={nearest}")


def check_image(x: Tensor, downsampling: int) -> None:
    """Raise UserError if the size of the images (B, C, H, W) is not divisible by ``downsampling``."""
    check_divisible(f"images of {x.shape[-2]}x{x.shape[-1]} are", x.shape[-2:], downsampling, "image_size")


def check_autoencoder(encoder: Encoder, decoder: Decoder, channels: int, image_size: int) -> tuple[int, int]:
    """Return height and width of the feature map, or raise UserError if the networks or the images do not fit."""
    check_fit(encoder, decoder, channels, "image", "make both the same")
    check_divisible(f"image_size {image_size} is", (image_size,), encoder.downsampling, "image_size")
    return image_size // encoder.downsampling, image_size // encoder.downsampling


def check_fit(encoder: Encoder, decoder: Decoder, channels: int, modality: str, hint: str) -> None:
    """Raise UserError if the networks do not fit the data, or differ in their factors (solution: ``hint``)."""
    for name, part, end in (("encoder", encoder, "in_channels"), ("decoder", decoder, "out_channels")):
        made_for = getattr(part, "modality", "image")  # a plain module may replace a network
        if made_for != modality:
            usual = {"image": "Conv", "signal": "S4D"}[modality] + name.capitalize()
            raise UserError(f"{type(part).__name__} is made for {made_for}s: set {name}={usual}")
        found = getattr(part, end, channels)
        if found != channels:
            raise UserError(f"{end} of the {name} is {found}, channels of the model {channels}: use those of the data")
    down, up = encoder.downsampling, decoder.upsampling
    if down != up:
        raise UserError(f"the encoder shrinks by {down}, the decoder grows by {up}: {hint}")


def check_gan(generator: Generator, net: FeatureNet, channels: int, image_size: int) -> None:
    """Raise UserError if the generator or the discriminator is made for other images."""
    generated = generator.out_channels, generator.image_size
    for name, made_for in (("generator", generated), ("discriminator", (net.in_channels, net.image_size))):
        if made_for != (channels, image_size):
            sizes = f"{channels} channels and size {image_size}, the {name} {made_for[0]} and {made_for[1]}"
            raise UserError(f"images have {sizes}: build the {name} for these images")


def wrong_channels(what: str, shape: str, x: Tensor, channels: int) -> str:
    """Return the message for a batch ``x`` that does not have the ``shape`` that a model needs."""
    other = x.ndim == shape.count(",") + 1 and x.shape[1] != channels
    hint = f": build the model with channels={x.shape[1]}" if other else ""
    return f"{what} must be {shape}, got {tuple(x.shape)}{hint}"
