"""The Frechet distance of two sets of images (Heusel et al. 2017, arXiv:1706.08500)."""

import torch
from torch import Tensor
from torchmetrics import Metric

from vqlab.errors import UserError
from vqlab.metrics.images.features import FeatureNetName, build_features, channels_of, smallest_image
from vqlab.nn.backbone import Owner
from vqlab.nn.frozen import Frozen
from vqlab.serialization import ConfigMixin


class FrechetDistance(ConfigMixin, Metric):
    """Distance of two sets of images: that of two Gaussians with the means and covariances of their features.

    d = |m - m'|^2 + Tr(C + C' - 2 (C C')^(1/2)), float64, over all images since the last ``reset``, on all ranks. It
    is larger for fewer images: compare only distances of equal numbers. Only with ``net="inception"`` it is the FID of
    the literature. Images are (B, 3, H, W) or (B, 1, H, W) in [0, 1]; H and W are at least 16 for vgg, 17 for squeeze,
    21 for squeezenet1_0, 31 for alex. The network is not in the state dict.

    Args:
        net: ``inception`` (2048 features; images resized to 299 and rounded to 8 bits, as in published values) needs
            the package torch-fidelity. ``efficientnet_lite0`` (1280 features; images rounded to 8 bits and resized to
            224) needs the packages of ``vqlab[features]``, which hold its weights. The others are networks of
            torchvision at the size of the images: the last layer of ``features`` before its final pooling. Features are
            averaged over all positions.
        backbone: File with the weights. Default: the cache of torch hub, with a download at the first use; the package
            for efficientnet_lite0.

    Example:
        >>> import tempfile, torchvision
        >>> file = tempfile.mkdtemp() + "/squeeze.pth"
        >>> torch.save(torchvision.models.squeezenet1_1().state_dict(), file)
        >>> frechet, images = FrechetDistance("squeeze", backbone=file), torch.rand(4, 3, 32, 32)
        >>> frechet.update(images, real=True)
        >>> frechet.update(images, real=False)
        >>> bool(frechet.compute() < 1e-6), frechet.name
        (True, 'squeeze')
    """

    full_state_update = False
    higher_is_better: bool | None = False
    owner = Owner("the Frechet distance", "frechet.", "set frechet=null")
    min_images = 2  # of each kind
    real_count: Tensor
    fake_count: Tensor

    def __init__(self, net: FeatureNetName = "inception", backbone: str | None = None) -> None:
        super().__init__()
        self.net, self.backbone = net, backbone
        self.name = net  # suffix of the logged name
        self._loaded: list[Frozen] = []  # a list, so that it is not registered as a submodule
        channels = channels_of(net)
        for kind in ("real", "fake"):
            for name, size in (("sum", (channels,)), ("products", (channels, channels))):
                zeros = torch.zeros(size, dtype=torch.float64)
                self.add_state(f"{kind}_{name}", zeros, dist_reduce_fx="sum")
            self.add_state(f"{kind}_count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def load(self, device: torch.device | str = "cpu") -> Frozen:
        """Return the network on ``device``; the first call reads or downloads the weights."""
        if not self._loaded:
            self._loaded.append(Frozen(build_features(self.net, self.backbone, self.owner)))
        return self._loaded[0].to(device)

    def update(self, images: Tensor, real: bool) -> None:
        """Add ``images`` (B, C, H, W) in [0, 1] to the real or to the other set."""
        if images.ndim != 4:
            raise UserError(f"images must be (B, 3, H, W) or (B, 1, H, W), got {tuple(images.shape)}")
        self.check_shape(*images.shape[1:])
        net = self.load(images.device)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            features = net(images.float().expand(-1, 3, -1, -1))
        self.add_features(features, "real" if real else "fake")

    def add_features(self, features: Tensor, kind: str) -> None:
        """Add features (B, D) to the set ``kind``, "real" or "fake"."""
        features = features.double()
        for name, value in (("sum", features.sum(0)), ("products", features.T @ features), ("count", len(features))):
            setattr(self, f"{kind}_{name}", getattr(self, f"{kind}_{name}") + value)

    def compute(self) -> Tensor:
        """Return the distance of the two sets, a float64 scalar."""
        count = int(torch.minimum(self.real_count, self.fake_count))
        if count < self.min_images:
            rule = f"{self.owner.what} needs at least {self.min_images} images of each kind"
            raise UserError(f"{rule}, got {count}: {self.owner.without}")
        sums = ([getattr(self, f"{kind}_{name}") for name in ("sum", "products", "count")] for kind in ("real", "fake"))
        real, fake = (gaussian(*values) for values in sums)
        return frechet_distance(*real, *fake)

    def check_shape(self, channels: int, height: int, width: int) -> None:
        """Raise UserError unless images of this shape have 1 or 3 channels and are large enough."""
        if channels not in (1, 3):
            raise UserError(f"channels must be 1 or 3 for {self.owner.what}, got {channels}: {self.owner.without}")
        smallest = smallest_image(self.net)
        if min(height, width) < smallest:
            rule = f"image_size must be at least {smallest} for {self.owner.what} by {self.net}"
            raise UserError(f"{rule}, got {height}x{width}: {self.owner.without}")


def gaussian(total: Tensor, products: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (D,) and covariance (D, D) from the sums of ``count`` vectors (D,) and of their outer products."""
    mean = total / count
    return mean, (products - count * mean.outer(mean)) / (count - 1)


def frechet_distance(mean: Tensor, cov: Tensor, other_mean: Tensor, other_cov: Tensor) -> Tensor:
    """Return the squared Frechet distance of two Gaussians; means (D,), covariances (D, D), all float64.

    Tr (C C')^(1/2) is the sum of the singular values of R^T R', where C = R R^T and C' = R' R'^T: precise also if the
    covariances are singular (fewer images than features).
    """
    root = torch.linalg.svdvals(_root(cov).T @ _root(other_cov)).sum()
    # For equal sets rounding may give a negative value.
    return ((mean - other_mean).square().sum() + cov.trace() + other_cov.trace() - 2 * root).clamp_min(0)


def _root(cov: Tensor) -> Tensor:
    """Return R (D, rank) with R R^T = ``cov``."""
    values, vectors = torch.linalg.eigh(cov)
    # Rounding turns an eigenvalue of 0 into about eps, whose root is 1e8 times larger.
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    return vectors[:, kept] * values[kept].sqrt()
