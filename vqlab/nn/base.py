"""What a model needs to know of its networks: encoder, decoder, discriminator, generator."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.serialization import ConfigMixin


class Encoder(ConfigMixin, nn.Module, ABC):
    """A network from images, or signals, to features.

    Attributes:
        in_channels: Channels of the images.
        out_channels: Channels of the features.
        downsampling: Factor between the image's and the features' height and width, or between their lengths.
        modality: ``image``, or ``signal`` for (B, C, L).
    """

    in_channels: int
    out_channels: int
    downsampling: int
    modality = "image"

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / downsampling, W / downsampling)."""


class Decoder(ConfigMixin, nn.Module, ABC):
    """A network from features to images, or signals.

    Attributes:
        in_channels: Channels of the features.
        out_channels: Channels of the images.
        upsampling: Factor between the features' and the image's height and width, or between their lengths.
        modality: ``image``, or ``signal`` for (B, C, L).
        head: Where it exists, the end of the network, whose first module is the last layer with weights: the adaptive
            weight of a VQ-GAN compares gradients there.
    """

    in_channels: int
    out_channels: int
    upsampling: int
    modality = "image"

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, out_channels, h * upsampling, w * upsampling)."""


class Discriminator(ConfigMixin, nn.Module, ABC):
    """A network from images to logits, one per patch: high where it takes the patch for real.

    Attributes:
        in_channels: Channels of the images.
    """

    in_channels: int

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, 1, h, w)."""


class Generator(ConfigMixin, nn.Module, ABC):
    """A network from noise to images.

    Attributes:
        latent_dim: Numbers of noise that make one image.
        out_channels: Channels of the images.
        image_size: Height and width of the images.
    """

    latent_dim: int
    out_channels: int
    image_size: int

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """(B, latent_dim) to (B, out_channels, image_size, image_size) in [-1, 1]."""


class FeatureNet(ConfigMixin, nn.Module, ABC):
    """A network from images to features, on which a model puts heads of its own.

    Attributes:
        in_channels: Channels of the images.
        image_size: Height and width of the images.
        out_features: Numbers per image.
    """

    in_channels: int
    image_size: int
    out_features: int

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, image_size, image_size) to (B, out_features)."""


def check_autoencoder(encoder: Encoder, decoder: Decoder, channels: int, image_size: int) -> tuple[int, int]:
    """Return height and width of the encoder's map.

    Raises:
        UserError: If the networks do not fit each other or the images.
    """
    check_fit(encoder, decoder, channels, "image", "make both the same")
    down = encoder.downsampling
    if image_size % down:
        good = max(down, down * round(image_size / down))
        raise UserError(
            f"image_size {image_size} is not divisible by the encoder's downsampling {down}: "
            f"set --data.image_size={good}, or another encoder"
        )
    return image_size // down, image_size // down


def wrong_channels(what: str, shape: str, x: Tensor, channels: int) -> str:
    """Return what to say of a batch ``x`` of another ``shape`` than a model of ``channels`` takes."""
    other = x.ndim == shape.count(",") + 1 and x.shape[1] != channels
    hint = f": build the model with channels={x.shape[1]}" if other else ""
    return f"{what} must be {shape}, got {tuple(x.shape)}{hint}"


def check_fit(encoder: Encoder, decoder: Decoder, channels: int, modality: str, same_factor: str) -> None:
    """Raise UserError if the networks are not of ``modality``, or do not fit each other or the data's channels.

    Args:
        encoder: Network to features.
        decoder: Network from features.
        channels: Of the images or signals.
        modality: ``image`` or ``signal``.
        same_factor: How to make the encoder's factor and the decoder's the same.
    """
    for name, part, ends in (("encoder", encoder, "in"), ("decoder", decoder, "out")):
        made_for = getattr(part, "modality", "image")  # a plain module may stand in for a network
        if made_for != modality:
            usual = {"image": "Conv", "signal": "S4D"}[modality] + name.capitalize()
            raise UserError(f"{type(part).__name__} is made for {made_for}s: set --model.{name}={usual}")
        found = getattr(part, f"{ends}_channels", channels)
        if found != channels:
            raise UserError(
                f"{ends}_channels of the {name} is {found}, channels of the model {channels}: set both to those of "
                f"the {modality}s"
            )
    if encoder.downsampling != decoder.upsampling:
        raise UserError(
            f"the encoder shrinks by {encoder.downsampling}, the decoder grows by {decoder.upsampling}: {same_factor}"
        )


def check_players(generator: Generator, net: FeatureNet, channels: int, image_size: int) -> None:
    """Raise UserError if the networks of a GAN are made for other images."""
    for name, part, ends in (("generator", generator, "out"), ("discriminator", net, "in")):
        found = getattr(part, f"{ends}_channels"), part.image_size
        if found != (channels, image_size):
            raise UserError(
                f"images have {channels} channels and size {image_size}, the {name} {found[0]} and {found[1]}: "
                f"set --model.{name}.{ends}_channels={channels} --model.{name}.image_size={image_size}"
            )
