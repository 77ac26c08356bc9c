"""The Frechet distance of two sets of images (Heusel et al. 2017, arXiv:1706.08500)."""

from typing import Literal

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from vqlab.errors import UserError, read_error
from vqlab.nn.backbone import BACKBONES, Owner, cached, load_features
from vqlab.nn.frozen import Frozen
from vqlab.serialization import ConfigMixin

INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_CHANNELS = 2048
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, which torchvision's weights were trained with
OWNER = Owner("the Frechet distance", "frechet", "frechet=null")


class FrechetDistance(ConfigMixin, Metric):
    """Distance of two sets of images: that of two Gaussians with the means and covariances of their features.

    d = |m - m'|^2 + Tr(C + C' - 2 (C C')^(1/2)), over all images since the last ``reset``, on all ranks. It grows as
    their number falls: compare only distances of equally many. Only with ``net="inception"`` is it the FID of the
    literature, so :attr:`name` is part of the name of every logged value.

    ``inception`` is torchmetrics' Inception (2048 features; images resized to 299 and rounded to 8 bits, as in
    published values) and needs the package torch-fidelity. The others are classifiers of torchvision: the last layer of
    ``features`` before its final pooling, averaged over all positions, at the images' own size. Weights are read from
    ``backbone``, else from torch hub's cache, else downloaded into it, at the first use. The network is in no state
    dict and runs in float32; means and covariances are float64, which Apple's GPUs lack.

    Args:
        net: ``inception``, ``vgg`` (VGG16), ``alex``, ``squeeze`` (SqueezeNet 1.1) or ``squeezenet1_0``.
        backbone: File with the network's state dict.

    Shape:
        images (B, 3, H, W) or (B, 1, H, W) in [0, 1]; the distance is a scalar, float64. H and W are at least 16 for
        vgg, 17 for squeeze, 21 for squeezenet1_0, 31 for alex.

    Raises:
        UserError: If the weights can be neither found nor downloaded, the file is damaged or of another network, the
            images are too small or have neither 1 nor 3 channels, or a set has fewer than 2 of them.

    Example:
        >>> import tempfile, torchvision
        >>> file = tempfile.mkdtemp() + "/squeeze.pth"
        >>> torch.save(torchvision.models.squeezenet1_1().state_dict(), file)
        >>> frechet = FrechetDistance("squeeze", backbone=file)
        >>> images = torch.rand(4, 3, 32, 32)
        >>> frechet.update(images, real=True)
        >>> frechet.update(images, real=False)
        >>> bool(frechet.compute() < 1e-6), frechet.name, list(frechet.state_dict())
        (True, 'squeeze', [])
    """

    full_state_update = False
    higher_is_better = False
    real_sum: Tensor
    real_products: Tensor
    real_count: Tensor
    fake_sum: Tensor
    fake_products: Tensor
    fake_count: Tensor

    def __init__(
        self,
        net: Literal["inception", "vgg", "alex", "squeeze", "squeezenet1_0"] = "inception",
        backbone: str | None = None,
    ) -> None:
        super().__init__()
        self.net, self.backbone = net, backbone
        self.name = net  # part of the name of every logged value
        self._loaded: list[Frozen] = []  # a list, so that it is not registered as a submodule
        channels = INCEPTION_CHANNELS if net == "inception" else BACKBONES[net].channels
        for kind in ("real", "fake"):
            for name, size in (("sum", (channels,)), ("products", (channels, channels))):
                zeros = torch.zeros(size, dtype=torch.float64)
                self.add_state(f"{kind}_{name}", zeros, dist_reduce_fx="sum")
            self.add_state(f"{kind}_count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def load(self, device: torch.device | str = "cpu") -> Frozen:
        """Return the network on ``device``; the first call reads or downloads the weights."""
        if not self._loaded:
            net = Inception(self.backbone) if self.net == "inception" else Averaged(self.net, self.backbone)
            self._loaded.append(Frozen(net))
        return self._loaded[0].to(device)

    def update(self, images: Tensor, real: bool) -> None:
        """Add ``images`` (B, C, H, W) in [0, 1] to the real or to the other set."""
        if images.ndim != 4:
            raise UserError(f"images must be (B, 3, H, W) or (B, 1, H, W), got {tuple(images.shape)}")
        self.check_shape(*images.shape[1:])
        net = self.load(images.device)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            features = net(images.float().expand(-1, 3, -1, -1)).double()
        kind = "real" if real else "fake"
        for name, value in (("sum", features.sum(0)), ("products", features.T @ features), ("count", len(features))):
            # Not in place: `reset` inside Trainer.validate makes an inference tensor, which may not change later.
            setattr(self, f"{kind}_{name}", getattr(self, f"{kind}_{name}") + value)

    def compute(self) -> Tensor:
        """Return the distance of the two sets, a float64 scalar."""
        count = int(torch.minimum(self.real_count, self.fake_count))
        if count < 2:
            raise UserError(f"{OWNER.what} needs at least 2 images of each kind, got {count}: set {OWNER.without}")
        return frechet_distance(
            *gaussian(self.real_sum, self.real_products, self.real_count),
            *gaussian(self.fake_sum, self.fake_products, self.fake_count),
        )

    def check_shape(self, channels: int, height: int, width: int) -> None:
        """Raise UserError unless images of this shape have 1 or 3 channels and are large enough."""
        if channels not in (1, 3):
            raise UserError(f"channels must be 1 or 3 for {OWNER.what}, got {channels}: set {OWNER.without}")
        smallest = 1 if self.net == "inception" else BACKBONES[self.net].smallest
        if min(height, width) < smallest:
            raise UserError(
                f"image_size must be at least {smallest} for {OWNER.what} by {self.net}, got {height}x{width}: set "
                f"{OWNER.without}"
            )


class Averaged(nn.Module):
    """The features of a classifier of torchvision, a key of ``BACKBONES``, averaged over all positions."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: str, backbone: str | None) -> None:
        super().__init__()
        self.features = load_features(net, backbone, OWNER)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(STD)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to features (B, D)."""
        return self.features((x - self.mean) / self.std).mean((2, 3))


class Inception(nn.Module):
    """torchmetrics' Inception, on images rounded to 8 bits."""

    def __init__(self, backbone: str | None) -> None:
        from torchmetrics.image import fid

        super().__init__()
        if not fid._TORCH_FIDELITY_AVAILABLE:
            raise UserError("net=inception needs torch-fidelity: pip install torch-fidelity, or set net=vgg")
        path = backbone if backbone is not None else str(cached(INCEPTION_URL, OWNER))
        try:
            self.net = fid.NoTrainInceptionV3("inception-v3-compat", [str(INCEPTION_CHANNELS)], path)
        except Exception as error:  # a missing, damaged or foreign file makes the reader raise errors of a dozen kinds
            message = f"{path} does not hold the weights of Inception ({type(error).__name__}): get {INCEPTION_URL}"
            raise read_error(path, error, message) from error

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to features (B, 2048)."""
        return self.net((x * 255).round().to(torch.uint8))


def gaussian(total: Tensor, products: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (D,) and covariance (D, D) from the sums of ``count`` vectors (D,) and of their outer products."""
    mean = total / count
    return mean, (products - count * mean.outer(mean)) / (count - 1)


def frechet_distance(mean: Tensor, cov: Tensor, other_mean: Tensor, other_cov: Tensor) -> Tensor:
    """Return the squared Frechet distance of two Gaussians; means (D,), covariances (D, D), all float64.

    Tr (C C')^(1/2) is the sum of the singular values of R^T R', where C = R R^T and C' = R' R'^T. Unlike the root of
    the product, which is not symmetric, it keeps its precision where the covariances are singular (fewer images than
    features).
    """
    shared = torch.linalg.svdvals(_root(cov).T @ _root(other_cov)).sum()
    # Equal sets leave a rounding error, which may be negative.
    return ((mean - other_mean).square().sum() + cov.trace() + other_cov.trace() - 2 * shared).clamp_min(0)


def _root(cov: Tensor) -> Tensor:
    """Return R (D, rank) with R R^T = ``cov``."""
    values, vectors = torch.linalg.eigh(cov)
    # Eigenvalues of 0 are rounded to about eps, and their roots would be 1e8 times that.
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    return vectors[:, kept] * values[kept].sqrt()
