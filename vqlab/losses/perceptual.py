"""LPIPS (Zhang et al. 2018, arXiv:1801.03924): a distance of images in the features of an ImageNet classifier."""

import warnings
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.backbone import BACKBONES, Owner, load_features, normalize
from vqlab.nn.frozen import Frozen
from vqlab.serialization import ConfigMixin

LPIPS_NETS = ("vgg", "alex", "squeeze")  # networks with trained heads
OWNER = Owner("LPIPS", "perceptual.", "set perceptual_weight=0")
TINY = 1e-18  # added to features, whose norm has no gradient at 0


class Perceptual(ConfigMixin, nn.Module):
    """The LPIPS distance, version 0.1, with the heads of the ``lpips`` package, or a distance of the same form.

    Maps two batches (B, 3, H, W) or (B, 1, H, W) in [-1, 1] to (B,) float32. H and W are at least 16 for vgg, 17 for
    squeeze, 21 for squeezenet1_0, 31 for alex. The first use or :meth:`load` reads the weights of the classifier from
    ``backbone`` or from torch hub's cache, into which they are downloaded if missing (vgg: 528 MB). The classifier uses
    autocast only when a gradient is needed. It is neither in the state dict nor among the parameters.

    The two last networks have no trained heads, so the distance is not LPIPS, and is logged as ``perceptual_<net>``:
    the mean over the layers of the mean over positions of |f / |f| - f' / |f'||^2, features f and f' of one position.

    Args:
        net: ``vgg`` (VGG16), ``alex`` or ``squeeze`` for LPIPS; ``efficientnet_lite0``, which needs no download but the
            packages of ``vqlab[features]``, or ``squeezenet1_0``.
        backbone: File with the state dict of torchvision's model, or of its ``features``; or of EfficientNet-Lite0.

    Example:
        >>> import tempfile, torchvision
        >>> file = tempfile.mkdtemp() + "/squeeze.pth"
        >>> torch.save(torchvision.models.squeezenet1_1().state_dict(), file)  # in practice: the trained weights
        >>> x = torch.rand(2, 3, 32, 32) * 2 - 1
        >>> Perceptual("squeeze", backbone=file)(x, x).tolist()
        [0.0, 0.0]
    """

    def __init__(
        self,
        net: Literal["vgg", "alex", "squeeze", "squeezenet1_0", "efficientnet_lite0"] = "vgg",
        backbone: str | None = None,
    ) -> None:
        super().__init__()
        self.net, self.backbone = net, backbone
        self.name = "lpips" if net in LPIPS_NETS else f"perceptual_{net}"  # in the log
        self._loaded: list[Frozen] = []  # a list, so that torch does not register a submodule

    @torch.inference_mode(False)  # tensors that are created in inference mode have no gradients
    def load(self, device: torch.device | str = "cpu") -> Frozen:
        """Return the network on ``device``; the first call reads or downloads the weights."""
        if not self._loaded:
            taps = Taps(load_features(self.net, self.backbone, OWNER), BACKBONES[self.net].taps)
            distance = build_lpips(self.net, taps) if self.net in LPIPS_NETS else UnitDistance(self.net, taps)
            self._loaded.append(Frozen(distance.to(memory_format=torch.channels_last)))  # faster
        return self._loaded[0].to(device)

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Return the distances (B,) of ``x_hat`` and ``x`` (B, C, H, W)."""
        if x.ndim != 4 or x.shape[1] not in (1, 3) or x_hat.shape != x.shape:
            found = f"got {tuple(x_hat.shape)} and {tuple(x.shape)}: set perceptual_weight=0 for other data"
            raise UserError(f"LPIPS compares images (B, 3, H, W) or (B, 1, H, W) of one shape, {found}")
        self.check_size(*x.shape[2:])
        lpips: Any = self.load(x.device).net
        device = x.device.type
        trains = torch.is_grad_enabled() and (x_hat.requires_grad or x.requires_grad)
        lpips.net.autocast = trains and torch.is_autocast_enabled(device)  # it rounds small distances
        with torch.autocast(device, enabled=False):
            x_hat, x = (image.float().expand(-1, 3, -1, -1) for image in (x_hat, x))
            return lpips(x_hat, x).flatten()

    def check_size(self, height: int, width: int) -> None:
        """Raise UserError if images of this size are too small."""
        smallest = BACKBONES[self.net].smallest
        if min(height, width) < smallest:
            found = f"images of {height}x{width} are too small for LPIPS with {self.net}"
            raise UserError(f"{found}: set image_size={smallest} or perceptual_weight=0")


def build_perceptual(given: Perceptual | None, weight: float, image_size: int) -> Perceptual | None:
    """Return ``given`` or LPIPS for a model of square images, or None if ``weight`` is 0."""
    if not weight:
        return None
    perceptual = given or Perceptual()
    perceptual.check_size(image_size, image_size)
    return perceptual


class Taps(nn.Module):
    """Features at the positions ``taps``; it replaces the networks of ``lpips``, which download their weights."""

    autocast = False

    def __init__(self, layers: nn.Sequential, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.layers, self.taps = layers, taps

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalized images (B, 3, H, W) to features (B, C, h, w) at each tap, in float32."""
        outputs = []
        with torch.autocast(x.device.type, enabled=self.autocast):
            for position, layer in enumerate(self.layers):
                x = layer(x)
                if position in self.taps:
                    outputs.append(x.float() + TINY)
        return outputs


class UnitDistance(nn.Module):
    """The distance of LPIPS with equal weights of all channels, as a mean over the layers."""

    def __init__(self, name: str, net: Taps) -> None:
        super().__init__()
        self.name, self.net = name, net

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Map two batches (B, 3, H, W) in [-1, 1] to (B,)."""
        pairs = zip(*(self.net(normalize(self.name, (image + 1) / 2)) for image in (x_hat, x)), strict=True)
        distances = [(F.normalize(a) - F.normalize(b)).square().sum(1).mean((1, 2)) for a, b in pairs]
        return torch.stack(distances).mean(0)


def build_lpips(net: str, taps: Taps) -> nn.Module:
    """Return ``lpips.LPIPS`` with the heads of ``net`` on ``taps``."""
    import lpips  # takes a second, so only where it is needed

    with torch.device("meta"), warnings.catch_warnings():  # no memory and no random numbers: weights are replaced
        warnings.simplefilter("ignore")  # the package uses a deprecated function of torchvision
        distance = lpips.LPIPS(pretrained=False, net=net, pnet_rand=True, verbose=False)
    distance.net = taps
    file = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
    heads = torch.load(file, map_location="cpu", weights_only=True)
    distance.load_state_dict(heads, strict=False, assign=True)
    return distance
