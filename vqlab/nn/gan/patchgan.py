"""PatchGAN (Isola et al. 2017, arXiv:1611.07004), the discriminator of VQ-GAN."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from vqlab.errors import UserError
from vqlab.nn.autoencoders.conv import norm as group_norm
from vqlab.nn.base import Discriminator
from vqlab.nn.layer_counts import check_layers

NORMS: dict[str, Callable[[int], nn.Module] | None] = {
    "group": group_norm,
    "batch": nn.BatchNorm2d,
    "spectral": None,
    "none": None,
}


class PatchGAN(Discriminator):
    """Convolutions that judge overlapping patches; with three layers a patch has 70 x 70 pixels.

    4x4 convolutions and LeakyReLU(0.2): ``num_layers`` that halve the size, one that keeps it, and one to a single
    channel. The first has no norm. Channels double from layer to layer, up to eight times ``base_channels``.
    The layout is that of VQ-GAN's published code. Its batch norm judges an image by its neighbours in the batch, and on
    several GPUs by those of one rank alone; group norm, the default here, does neither.

    Args:
        in_channels: Channels of the images; the command line links it to the data.
        base_channels: Channels of the first layer.
        num_layers: Layers that halve the size.
        norm: ``group`` (at most 32 groups), ``batch``, ``spectral`` (spectral norm of all convolutions, no norm layers:
            Miyato et al. 2018, arXiv:1802.05957), or ``none``.

    Shape:
        input (B, in_channels, H, W), H and W at least 3 * 2^num_layers;
        output (B, 1, H // 2^num_layers - 2, W // 2^num_layers - 2).

    Raises:
        UserError: If an argument is out of range, or the images are too small or have other channels.

    Example:
        >>> import torch
        >>> tuple(PatchGAN(base_channels=16)(torch.randn(2, 3, 32, 32)).shape)
        (2, 1, 2, 2)
    """

    def __init__(
        self,
        in_channels: int = 3,
        base_channels: int = 64,
        num_layers: int = 3,
        norm: Literal["group", "batch", "spectral", "none"] = "group",
    ) -> None:
        super().__init__()
        check_layers(num_layers=num_layers)
        if min(in_channels, base_channels, num_layers) < 1:
            raise UserError(
                "in_channels, base_channels and num_layers of PatchGAN must be at least 1, got "
                f"{in_channels}, {base_channels}, {num_layers}: set --model.discriminator.num_layers=3"
            )
        if norm not in NORMS:
            raise UserError(
                f"norm must be one of {', '.join(NORMS)}, got {norm!r}: set --model.discriminator.norm=group"
            )
        self.in_channels, self.num_layers = in_channels, num_layers
        make_norm = NORMS[norm]
        widths = [base_channels * min(2**level, 8) for level in range(num_layers + 1)]
        layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for level in range(1, num_layers + 1):
            stride = 2 if level < num_layers else 1
            # Batch norm takes every channel's mean away, and a bias with it; group norm only the mean of a group.
            bias = norm != "batch"
            layers.append(nn.Conv2d(widths[level - 1], widths[level], 4, stride, padding=1, bias=bias))
            if make_norm is not None:
                layers.append(make_norm(widths[level]))
            layers.append(nn.LeakyReLU(0.2))
        layers.append(nn.Conv2d(widths[-1], 1, 4, stride=1, padding=1))
        self.layers = nn.Sequential(*layers)
        for layer in self.layers:
            _initialise(layer)
            if norm == "spectral" and isinstance(layer, nn.Conv2d):
                spectral_norm(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 1, h, w) of images (B, C, H, W)."""
        return self.layers[-1](self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Return what the last layer judges, (B, F, h + 1, w + 1)."""
        self._check(x)
        return self.layers[:-1](x)

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise UserError(
                f"PatchGAN takes images (B, {self.in_channels}, H, W), got {tuple(x.shape)}: "
                f"set --model.discriminator.in_channels"
            )
        self.check_size(*x.shape[2:])

    def check_size(self, height: int, width: int) -> None:
        """Raise UserError if images of this size are too small."""
        # The last two layers need 3 pixels: each takes one away, and one logit must remain.
        smallest = 3 * 2**self.num_layers
        if min(height, width) < smallest:
            raise UserError(
                f"images of {height}x{width} are too small for a PatchGAN with num_layers={self.num_layers}, "
                f"which needs {smallest}: set --data.image_size={smallest}, or "
                "--model.discriminator=PatchGAN --model.discriminator.num_layers=1"
            )


def _initialise(layer: nn.Module) -> None:
    """Draw the weights as pix2pix does: convolutions N(0, 0.02), scales of norms N(1, 0.02), biases 0."""
    if isinstance(layer, (nn.Conv2d, nn.GroupNorm, nn.BatchNorm2d)):
        nn.init.normal_(layer.weight, 0.0 if isinstance(layer, nn.Conv2d) else 1.0, 0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
