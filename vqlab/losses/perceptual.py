"""LPIPS (Zhang et al. 2018, arXiv:1801.03924): the distance of two images in the features of an ImageNet classifier."""

import importlib.util
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.backbone import BACKBONES, Owner, load_features
from vqlab.nn.frozen import Frozen
from vqlab.serialization import ConfigMixin

# ImageNet's mean and standard deviation for images in [-1, 1], rounded as the published heads were trained with.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
LPIPS_NETS = ("vgg", "alex", "squeeze")  # those for which trained heads exist
OWNER = Owner("LPIPS", "--model.perceptual.init_args", "--model.perceptual_weight=0")


class Perceptual(ConfigMixin, nn.Module):
    """The LPIPS distance, version 0.1, with the heads that the ``lpips`` package carries.

    d(x, x^) = sum over layers of the mean over positions of sum_c w_c (f_c - f^_c)^2, the features f scaled to length 1
    over the channels. The backbone's weights do not come with a package: they are read from ``backbone``, else from
    torch hub's cache, else downloaded into it (vgg: 528 MB), at the first use or in :meth:`load`; random weights never
    take their place.

    Where a gradient is taken, convolutions follow autocast and all else is float32. A distance that is only reported is
    float32 throughout: rounding to bfloat16 adds some per cent to small distances.

    ``squeezenet1_0`` has no trained heads, so there every channel of every layer counts alike and the layers are
    averaged: d in [0, 2], a plain distance of features. That is not LPIPS; its numbers cannot be compared with LPIPS,
    and it is logged under the name :attr:`name`, ``perceptual_squeezenet1_0``.

    The network belongs to no one: it is in no state dict, not among the parameters (an average of the weights, or DDP,
    would otherwise find other parameters after the first use than before), and moves to where the images are.

    Args:
        net: ``vgg`` (VGG16, the usual choice for training), ``alex``, ``squeeze`` (SqueezeNet 1.1), or
            ``squeezenet1_0`` (SqueezeNet 1.0), which is no LPIPS.
        backbone: File with the state dict of torchvision's model, whole or its ``features`` alone.

    Shape:
        two batches (B, 3, H, W) or (B, 1, H, W) in [-1, 1]; distances (B,) float32. H and W are at least 16 for vgg, 17
        for squeeze, 21 for squeezenet1_0, 31 for alex.

    Raises:
        UserError: If the weights are neither there nor to be had, the file is damaged or of another network, or the
            images are too small, differ in shape or have neither 1 nor 3 channels.

    Example:
        >>> import tempfile, torchvision
        >>> file = tempfile.mkdtemp() + "/squeeze.pth"
        >>> torch.save(torchvision.models.squeezenet1_1().state_dict(), file)  # in earnest: the trained weights
        >>> distance = Perceptual("squeeze", backbone=file)
        >>> x = torch.rand(2, 3, 32, 32) * 2 - 1
        >>> distance(x, x).tolist(), list(distance.state_dict()), list(distance.parameters())
        ([0.0, 0.0], [], [])
    """

    def __init__(
        self, net: Literal["vgg", "alex", "squeeze", "squeezenet1_0"] = "vgg", backbone: str | None = None
    ) -> None:
        super().__init__()
        if net not in BACKBONES:
            raise UserError(
                f"net must be one of {', '.join(BACKBONES)}, got {net!r}: set --model.perceptual.init_args.net=vgg"
            )
        self.net, self.backbone = net, backbone
        self._loaded: list[Frozen] = []  # a list, so that torch does not count it as a part

    @property
    def name(self) -> str:
        """What its value is logged as: ``lpips`` where it is LPIPS, else ``perceptual_<net>``."""
        return "lpips" if self.net in LPIPS_NETS else f"perceptual_{self.net}"

    @torch.inference_mode(False)  # what is made or moved in inference mode, as in a validation, could never train
    def load(self, device: torch.device | str = "cpu") -> Frozen:
        """Return the network on ``device``; the first call reads the weights, and downloads them if need be."""
        if not self._loaded:
            self._loaded.append(Frozen(build(self.net, self.backbone)))
        return self._loaded[0].to(device)

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Distances (B,) of ``x_hat`` and ``x`` (B, C, H, W), symmetric, with gradients to both."""
        self._check(x_hat, x)
        net = self.load(x.device)
        trains = torch.is_grad_enabled() and (x_hat.requires_grad or x.requires_grad)
        with nullcontext() if trains else torch.autocast(x.device.type, enabled=False):
            return net(x_hat.expand(-1, 3, -1, -1), x.expand(-1, 3, -1, -1))

    def _check(self, x_hat: Tensor, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] not in (1, 3) or x_hat.shape != x.shape:
            raise UserError(
                f"LPIPS compares images (B, 3, H, W) or (B, 1, H, W) of one shape, got {tuple(x_hat.shape)} and "
                f"{tuple(x.shape)}: set --model.perceptual_weight=0 for other data"
            )
        self.check_size(*x.shape[2:])

    def check_size(self, height: int, width: int) -> None:
        """Raise UserError if images of this size are too small."""
        smallest = BACKBONES[self.net].smallest
        if min(height, width) < smallest:
            raise UserError(
                f"images of {height}x{width} are too small for LPIPS by {self.net}, which needs {smallest}: "
                f"set --data.image_size={smallest} or --model.perceptual_weight=0"
            )


class LPIPS(nn.Module):
    """The distance itself, of images (B, 3, H, W).

    Args:
        features: Layers in order.
        taps: Positions of the layers whose outputs are compared.
        heads: One weight per channel for each of them, (1, C, 1, 1), or one for all, (1, 1, 1, 1).
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, features: nn.Sequential, taps: tuple[int, ...], heads: list[Tensor]) -> None:
        super().__init__()
        self.features, self.taps, self.heads = features, taps, nn.ParameterList(heads)
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None])

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Return distances (B,)."""
        layers = zip(self.heads, self._units(x_hat), self._units(x), strict=True)
        distances = [(head * (f_hat - f).square()).sum(1).mean((1, 2)) for head, f_hat, f in layers]
        return torch.stack(distances).sum(0)

    def _units(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the features (B, C, h, w) at each tap, of length 1 over the channels."""
        x = (x.float() - self.shift) / self.scale
        for position, layer in enumerate(self.features):
            x = layer(x)
            if position in self.taps:
                # Finite, with a finite gradient, where all features are 0; bf16 has too few digits for the length.
                yield F.normalize(x.float(), dim=1, eps=1e-10)


def build(net: str, backbone: str | None) -> LPIPS:
    """Return the distance by ``net``, its weights from the file ``backbone`` or torch hub's cache.

    Raises:
        UserError: See :class:`Perceptual`.
    """
    features, taps = load_features(net, backbone, OWNER), BACKBONES[net].taps
    if net in LPIPS_NETS:
        folder = importlib.util.find_spec("lpips").submodule_search_locations[0]  # type: ignore[union-attr, index]
        saved = torch.load(Path(folder) / "weights" / "v0.1" / f"{net}.pth", map_location="cpu", weights_only=True)
        heads = [saved[f"lin{layer}.model.1.weight"] for layer in range(len(taps))]
    else:
        heads = [torch.full((1, 1, 1, 1), 1 / len(taps)) for _ in taps]
    return LPIPS(features, taps, heads).to(memory_format=torch.channels_last)  # as the images come
