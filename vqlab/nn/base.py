"""What a model needs to know of an encoder, a decoder and a discriminator."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.rebuild import Rebuildable


class Encoder(Rebuildable, nn.Module, ABC):
    """A network from images to features.

    Attributes:
        in_channels: Channels of the images.
        out_channels: Channels of the features.
        downsampling: Factor between the image's and the features' height and width.
    """

    in_channels: int
    out_channels: int
    downsampling: int

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / downsampling, W / downsampling)."""


class Decoder(Rebuildable, nn.Module, ABC):
    """A network from features to images.

    Attributes:
        in_channels: Channels of the features.
        out_channels: Channels of the images.
        upsampling: Factor between the features' and the image's height and width.
        head: Where it exists, the end of the network, whose first module is the last layer with weights: the adaptive
            weight of a VQ-GAN compares gradients there.
    """

    in_channels: int
    out_channels: int
    upsampling: int

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, out_channels, h * upsampling, w * upsampling)."""


class Discriminator(Rebuildable, nn.Module, ABC):
    """A network from images to logits, one per patch: high where it takes the patch for real.

    Attributes:
        in_channels: Channels of the images.
    """

    in_channels: int

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, 1, h, w)."""


def check_autoencoder(encoder: Encoder, decoder: Decoder, channels: int, image_size: int) -> tuple[int, int]:
    """Return height and width of the encoder's map.

    Raises:
        UserError: If the networks do not fit each other or the images.
    """
    for name, part, ends in (("encoder", encoder, "in"), ("decoder", decoder, "out")):
        found = getattr(part, f"{ends}_channels", channels)
        if found != channels:
            mend = f"set --model.{name}.{ends}_channels={channels}"
            raise UserError(f"the images have {channels} channels, the {name} {found}: {mend}")
    down, up = encoder.downsampling, decoder.upsampling
    if down != up:
        raise UserError(f"the encoder shrinks by {down}, the decoder grows by {up}: make both the same")
    if image_size % down:
        good = max(down, down * round(image_size / down))
        raise UserError(
            f"image_size {image_size} is not divisible by the encoder's downsampling {down}: "
            f"set --data.image_size={good}, or another encoder"
        )
    return image_size // down, image_size // down
