"""PatchGAN (Isola et al. 2017, arXiv:1611.07004), the discriminator of VQ-GAN."""

from typing import Literal

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from vqlab.errors import UserError
from vqlab.nn.autoencoders.conv import norm as group_norm
from vqlab.nn.base import Discriminator
from vqlab.nn.gan.conv import draw_weights
from vqlab.validation import Count


class PatchGAN(Discriminator):
    """Convolutions that classify overlapping patches; with three layers a patch has 70 x 70 pixels.

    4x4 convolutions and LeakyReLU(0.2): ``num_layers`` that halve the size, one that keeps it, and one to a single
    channel. The first has no norm. Channels double from layer to layer, up to eight times ``base_channels``.
    The layout is that of VQ-GAN's published code. With its batch norm, the logits of an image depend on the rest of the
    batch (of one rank); with group norm, the default here, they do not.

    Args:
        in_channels: Channels of the images; the command line links it to the data.
        base_channels: Channels of the first layer.
        num_layers: Layers that halve the size; height and width of the images are at least 3 * 2^num_layers.
        norm: ``group`` (at most 32 groups), ``batch``, ``spectral`` (spectral norm of all convolutions, no norm layers:
            Miyato et al. 2018, arXiv:1802.05957), or ``none``.

    Shape:
        input (B, in_channels, H, W); output (B, 1, H // 2^num_layers - 2, W // 2^num_layers - 2).

    Example:
        >>> import torch
        >>> tuple(PatchGAN(base_channels=16)(torch.randn(2, 3, 32, 32)).shape)
        (2, 1, 2, 2)
    """

    def __init__(
        self,
        in_channels: Count = 3,
        base_channels: Count = 64,
        num_layers: Count = 3,
        norm: Literal["group", "batch", "spectral", "none"] = "group",
    ) -> None:
        super().__init__()
        self.in_channels, self.num_layers = in_channels, num_layers
        widths = [base_channels * min(2**level, 8) for level in range(num_layers + 1)]
        layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for level in range(1, num_layers + 1):
            stride = 2 if level < num_layers else 1
            bias = norm != "batch"  # batch norm removes the mean of each channel, group norm only that of a group
            layers.append(nn.Conv2d(widths[level - 1], widths[level], 4, stride, padding=1, bias=bias))
            if norm in ("group", "batch"):
                layers.append(group_norm(widths[level]) if norm == "group" else nn.BatchNorm2d(widths[level]))
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, stride=1, padding=1))
        for layer in self.layers:
            draw_weights(layer)
            if norm == "spectral" and isinstance(layer, nn.Conv2d):
                spectral_norm(layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[-1](self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Return the input of the last layer, (B, F, h + 1, w + 1)."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise UserError(f"PatchGAN takes images (B, {self.in_channels}, H, W), got {tuple(x.shape)}")
        self.check_size(*x.shape[2:])
        return self.layers[:-1](x)

    def check_size(self, height: int, width: int) -> None:
        """Raise UserError if images of this size are too small."""
        smallest = 3 * 2**self.num_layers  # the last two layers take one pixel each away, and one must remain
        if min(height, width) < smallest:
            raise UserError(
                f"images of {height}x{width} are too small for a PatchGAN with num_layers={self.num_layers}, which "
                f"needs {smallest}: set image_size={smallest}, or use fewer layers"
            )
