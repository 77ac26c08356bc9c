"""Networks whose features the metrics of sets of images compare."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.errors import UserError, read_error
from vqlab.nn.backbone import BACKBONES, Owner, cached, load_features, normalize

RELEASE = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
INCEPTION_URL = RELEASE + "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_CHANNELS = 2048
SLICE = 8  # images of 224 x 224 at once on a CPU: more are slower, because their features leave its cache

FeatureNetName = Literal["inception", "vgg", "alex", "squeeze", "squeezenet1_0", "efficientnet_lite0"]


def build_features(net: str, backbone: str | None, owner: Owner) -> nn.Module:
    """Return a network from images (B, 3, H, W) in [0, 1] to features (B, D), with weights from a file or a cache."""
    if net == "inception":
        return Inception(backbone, owner)
    return PooledFeatures(net, load_features(net, backbone, owner))


def channels_of(net: str) -> int:
    """Return D, the number of features of ``net``."""
    return INCEPTION_CHANNELS if net == "inception" else BACKBONES[net].channels


def smallest_image(net: str) -> int:
    """Return the smallest height and width of images for ``net``."""
    return 1 if net == "inception" else BACKBONES[net].smallest


class PooledFeatures(nn.Module):
    """The last layer before the pooling, averaged over all positions.

    A network with a ``train_size`` gets images rounded to 8 bits, and resized (bilinear, antialiased) to that size.
    """

    def __init__(self, name: str, layers: nn.Module) -> None:
        super().__init__()
        self.name, self.size = name, BACKBONES[name].train_size
        self.layers = layers.to(memory_format=torch.channels_last)  # faster

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] to features (B, D)."""
        if self.size is None:
            return self._features(x)
        x = (x * 255).round() / 255
        return torch.cat([self._features(self._resize(part)) for part in x.split(SLICE if x.is_cpu else len(x))])

    def _features(self, x: Tensor) -> Tensor:
        return self.layers(normalize(self.name, x)).mean((2, 3))

    def _resize(self, x: Tensor) -> Tensor:
        return F.interpolate(x, self.size, mode="bilinear", antialias=True).to(memory_format=torch.channels_last)


class Inception(nn.Module):
    """The Inception network of torchmetrics, on images rounded to 8 bits."""

    def __init__(self, backbone: str | None, owner: Owner) -> None:
        from torchmetrics.image import fid

        super().__init__()
        if not fid._TORCH_FIDELITY_AVAILABLE:
            raise UserError("net=inception needs torch-fidelity: pip install torch-fidelity, or set net=vgg")
        path = backbone if backbone is not None else str(cached(INCEPTION_URL, owner))
        try:
            self.net = fid.NoTrainInceptionV3("inception-v3-compat", [str(INCEPTION_CHANNELS)], path)
        except Exception as error:  # damaged and foreign files raise errors of many kinds
            message = f"{path} does not hold the weights of Inception ({type(error).__name__}): get {INCEPTION_URL}"
            raise read_error(path, error, message) from error

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] to features (B, 2048)."""
        return self.net((x * 255).round().to(torch.uint8))
