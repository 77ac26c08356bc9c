"""What a model needs to know of an encoder, a decoder and a discriminator."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

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
