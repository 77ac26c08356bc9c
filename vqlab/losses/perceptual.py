"""LPIPS (Zhang et al. 2018, arXiv:1801.03924): the distance of two images in the features of an ImageNet classifier."""

import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.backbone import BACKBONES, Owner, load_features
from vqlab.nn.frozen import Frozen
from vqlab.serialization import ConfigMixin

LPIPS_NETS = ("vgg", "alex", "squeeze")  # those with trained heads
OWNER = Owner("LPIPS", "perceptual", "perceptual_weight=0")
TINY = 1e-18  # added to features: the package divides by their length, and the root has no slope at 0


class Perceptual(ConfigMixin, nn.Module):
    """The LPIPS distance, version 0.1, computed by the ``lpips`` package with the heads that it contains.

    The weights of the classifier are read from ``backbone``, else from torch hub's cache, else downloaded into it
    (vgg: 528 MB), at the first use or in :meth:`load`. Where a gradient is taken, the classifier follows autocast; all
    else is float32. The network is neither in the state dict nor among the parameters.

    Args:
        net: ``vgg`` (VGG16), ``alex``, ``squeeze``; or ``squeezenet1_0``, all channels alike, which is no LPIPS.
        backbone: File with the state dict of torchvision's model, whole or its ``features`` alone.

    Shape:
        two batches (B, 3, H, W) or (B, 1, H, W) in [-1, 1]; distances (B,) float32. H and W are at least 16 for vgg, 17
        for squeeze, 21 for squeezenet1_0, 31 for alex.

    Raises:
        UserError: If the weights are not found or of another network, or the images are too small or differ in shape.

    Example:
        >>> import tempfile, torchvision
        >>> file = tempfile.mkdtemp() + "/squeeze.pth"
        >>> torch.save(torchvision.models.squeezenet1_1().state_dict(), file)  # in practice: the trained weights
        >>> distance = Perceptual("squeeze", backbone=file)
        >>> x = torch.rand(2, 3, 32, 32) * 2 - 1
        >>> distance(x, x).tolist(), list(distance.state_dict()), list(distance.parameters())
        ([0.0, 0.0], [], [])
    """

    def __init__(
        self, net: Literal["vgg", "alex", "squeeze", "squeezenet1_0"] = "vgg", backbone: str | None = None
    ) -> None:
        super().__init__()
        self.net, self.backbone = net, backbone
        self.name = "lpips" if net in LPIPS_NETS else f"perceptual_{net}"  # what its value is logged as
        self._loaded: list[Frozen] = []  # a list, so that torch does not count it as a part

    @torch.inference_mode(False)  # a network made in inference mode, as in a validation, could not train later
    def load(self, device: torch.device | str = "cpu") -> Frozen:
        """Return the network on ``device``; the first call reads the weights, and downloads them if need be."""
        if not self._loaded:
            self._loaded.append(Frozen(build(self.net, self.backbone)))
        return self._loaded[0].to(device)

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Distances (B,) of ``x_hat`` and ``x`` (B, C, H, W), symmetric, with gradients to both."""
        if x.ndim != 4 or x.shape[1] not in (1, 3) or x_hat.shape != x.shape:
            raise UserError(
                f"LPIPS compares images (B, 3, H, W) or (B, 1, H, W) of one shape, got {tuple(x_hat.shape)} and "
                f"{tuple(x.shape)}: set perceptual_weight=0 for other data"
            )
        self.check_size(*x.shape[2:])
        lpips: Any = self.load(x.device).net
        device = x.device.type
        trains = torch.is_grad_enabled() and (x_hat.requires_grad or x.requires_grad)
        lpips.net.autocast = trains and torch.is_autocast_enabled(device)  # rounding adds per cents to small distances
        with torch.autocast(device, enabled=False):
            x_hat, x = (image.float().expand(-1, 3, -1, -1) for image in (x_hat, x))
            distance = lpips(x_hat, x).flatten()
        return distance if self.net in LPIPS_NETS else distance / lpips.L

    def check_size(self, height: int, width: int) -> None:
        """Raise UserError if images of this size are too small."""
        smallest = BACKBONES[self.net].smallest
        if min(height, width) < smallest:
            raise UserError(
                f"images of {height}x{width} are too small for LPIPS by {self.net}, which needs {smallest}: "
                f"set image_size={smallest} or perceptual_weight=0"
            )


def build_perceptual(given: Perceptual | None, weight: float, image_size: int) -> Perceptual | None:
    """Return the distance of a model of square images: the one that is ``given``, else LPIPS; None at weight 0."""
    if not weight:
        return None
    perceptual = given or Perceptual()
    perceptual.check_size(image_size, image_size)
    return perceptual


class Taps(nn.Module):
    """Features at the positions ``taps``, in place of the package's networks, which download their weights."""

    autocast = False

    def __init__(self, layers: nn.Sequential, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.layers, self.taps = layers, taps

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) to the features (B, C, h, w) at each tap, in float32."""
        outputs = []
        with torch.autocast(x.device.type, enabled=self.autocast):
            for position, layer in enumerate(self.layers):
                x = layer(x)
                if position in self.taps:
                    outputs.append(x.float() + TINY)
        return outputs


def build(net: str, backbone: str | None) -> nn.Module:
    """Return ``lpips.LPIPS`` on ``net``, its weights from the file ``backbone`` or torch hub's cache."""
    import lpips  # takes a second, which a model without this loss need not wait for

    has_heads = net in LPIPS_NETS
    taps = Taps(load_features(net, backbone, OWNER), BACKBONES[net].taps)
    with torch.device("meta"), warnings.catch_warnings():  # no memory and no random numbers for weights to be replaced
        warnings.simplefilter("ignore")  # the package calls torchvision in a deprecated way
        distance = lpips.LPIPS(
            pretrained=False, net=net if has_heads else "squeeze", lpips=has_heads, pnet_rand=True, verbose=False
        )
    distance.net = taps
    if has_heads:
        file = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
        heads = torch.load(file, map_location="cpu", weights_only=True)
        distance.load_state_dict(heads, strict=False, assign=True)
    return distance.to(memory_format=torch.channels_last)  # as the images come
