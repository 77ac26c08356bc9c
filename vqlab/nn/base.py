"""The contracts of networks: what a model needs to know of its encoder, decoder, discriminator and generator."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.serialization import ConfigMixin


class Encoder(ConfigMixin, nn.Module, ABC):
    """A network from images or signals to features.

    ``downsampling`` is the factor between the height and width (or length) of the images and those of the features.
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

    It may have a ``head``, the end of the network, whose first module is the last layer with weights: the adaptive
    weight of VQ-GAN compares gradients there.
    """

    in_channels: int  # of the features
    out_channels: int  # of the images
    upsampling: int  # between the height and width (or length) of the features and those of the images
    modality = "image"  # or "signal" for (B, C, L)

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, out_channels, h * upsampling, w * upsampling)."""


class Discriminator(ConfigMixin, nn.Module, ABC):
    """A network from images to logits, one per patch.

    A logit is high where the patch looks real.
    """

    in_channels: int  # of the images

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, 1, h, w)."""


class Generator(ConfigMixin, nn.Module, ABC):
    """A network from noise to images.

    The images are square, of height and width ``image_size``.
    """

    latent_dim: int  # of the noise
    out_channels: int  # of the images
    image_size: int

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """(B, latent_dim) to (B, out_channels, image_size, image_size) in [-1, 1]."""


class FeatureNet(ConfigMixin, nn.Module, ABC):
    """A network from images to feature vectors.

    A model adds its own heads.
    """

    in_channels: int  # of the images
    image_size: int  # height and width
    out_features: int  # dimension of the features

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, image_size, image_size) to (B, out_features)."""


def check_divisible(what: str, sizes: Sequence[int], downsampling: int, setting: str) -> None:
    """Raise UserError if the ``sizes`` of ``what``, given by ``setting``, are not divisible by ``downsampling``."""
    if any(size % downsampling for size in sizes):
        nearest = downsampling * max(1, round(sizes[0] / downsampling))
        raise UserError(
            f"{what} not divisible by the encoder's downsampling {downsampling}: set {setting}={nearest}, "
            "or another encoder"
        )


def check_image(x: Tensor, downsampling: int) -> None:
    """Raise UserError if the images (B, C, H, W) are not divisible by ``downsampling``."""
    height, width = x.shape[-2:]
    check_divisible(f"images of {height}x{width} are", (height, width), downsampling, "image_size")


def check_autoencoder(encoder: Encoder, decoder: Decoder, channels: int, image_size: int) -> tuple[int, int]:
    """Return height and width of the feature map, or raise UserError if the networks or the images do not fit."""
    check_fit(encoder, decoder, channels, "image", "make both the same")
    check_divisible(f"image_size {image_size} is", (image_size,), encoder.downsampling, "image_size")
    return image_size // encoder.downsampling, image_size // encoder.downsampling


def check_fit(encoder: Encoder, decoder: Decoder, channels: int, modality: str, same_factor: str) -> None:
    """Raise UserError if the networks do not fit each other, or data of this modality with ``channels``.

    ``same_factor`` is the hint for networks whose factors differ.
    """
    for name, part, end in (("encoder", encoder, "in_channels"), ("decoder", decoder, "out_channels")):
        made_for = getattr(part, "modality", "image")  # a plain module may stand in for a network
        if made_for != modality:
            usual = {"image": "Conv", "signal": "S4D"}[modality] + name.capitalize()
            raise UserError(f"{type(part).__name__} is made for {made_for}s: set {name}={usual}")
        found = getattr(part, end, channels)
        if found != channels:
            raise UserError(
                f"{end} of the {name} is {found}, channels of the model {channels}: use those of the data for both"
            )
    if encoder.downsampling != decoder.upsampling:
        raise UserError(
            f"the encoder shrinks by {encoder.downsampling}, the decoder grows by {decoder.upsampling}: {same_factor}"
        )


def check_players(generator: Generator, net: FeatureNet, channels: int, image_size: int) -> None:
    """Raise UserError if the generator or the discriminator is made for other images."""
    for name, found in (
        ("generator", (generator.out_channels, generator.image_size)),
        ("discriminator", (net.in_channels, net.image_size)),
    ):
        if found != (channels, image_size):
            raise UserError(
                f"images have {channels} channels and size {image_size}, the {name} {found[0]} and {found[1]}: "
                f"build the {name} for these images"
            )


def wrong_channels(what: str, shape: str, x: Tensor, channels: int) -> str:
    """Return the message for a batch ``x`` of another ``shape`` than a model of ``channels`` takes."""
    other = x.ndim == shape.count(",") + 1 and x.shape[1] != channels
    hint = f": build the model with channels={x.shape[1]}" if other else ""
    return f"{what} must be {shape}, got {tuple(x.shape)}{hint}"
