"""Metrics of drawn images: Frechet and kernel distance, precision and recall, density and coverage."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from vqlab.metrics.images.features import FeatureNetName
from vqlab.metrics.images.frechet import FrechetDistance
from vqlab.nn.backbone import Owner
from vqlab.validation import NonNegativeInt

SUBSETS, SUBSET_SIZE = 100, 1000  # of the kernel distance, as in torch-fidelity and torchmetrics
PR_NEIGHBOURS, DC_NEIGHBOURS = 3, 5  # k of precision and recall, and of density and coverage, as in the papers
ROWS, COLUMNS = 512, 4096  # features of which the distances are computed at once


class GenerationMetrics(FrechetDistance):
    """Metrics of generated images beside real ones, on the features of a network, which their names contain.

    - ``fd_<net>``: Frechet distance, as :class:`FrechetDistance`; ``fd_inception`` is the FID of the literature.
    - ``kd_<net>`` and ``kd_std_<net>``: kernel distance (Binkowski et al. 2018, arXiv:1801.01401): the unbiased
      estimate of the squared maximum mean discrepancy with the kernel (x . y / D + 1)^3, mean and standard deviation
      over 100 random subsets of 1,000 images of each kind (of all, if there are fewer). ``kd_inception`` is the KID.
    - ``precision_<net>``: fraction of generated images that lie in any ball around a real image, up to its third
      nearest real image; ``recall_<net>``: with the roles exchanged (Kynkäänniemi et al. 2019, arXiv:1904.06991).
    - ``density_<net>``: mean number of balls around real images, up to the fifth nearest, in which a generated image
      lies, over 5; ``coverage_<net>``: fraction of these balls that are not empty (Naeem et al. 2020,
      arXiv:2002.09797).

    All values are in float64, over all images since the last ``reset``, on all ranks; they do not depend on the order
    of the images. Except for the kernel distance they depend on the numbers of images: compare only equal numbers. The
    features of all images are kept in float32, 256 MB for 50,000 of efficientnet_lite0; ``compute`` takes 1.2 GB more
    for 50,000 of each kind. Images are as for :class:`FrechetDistance`.

    Args:
        net: As in :class:`FrechetDistance`. ``efficientnet_lite0`` needs the packages of ``vqlab[features]``.
        backbone: As in :class:`FrechetDistance`.
        seed: Seed of the subsets.

    Raises:
        UserError: If there are fewer than 6 images of a kind, or for images and networks as :class:`FrechetDistance`.

    Example:
        >>> import tempfile, torchvision
        >>> file = tempfile.mkdtemp() + "/squeeze.pth"
        >>> torch.save(torchvision.models.squeezenet1_1().state_dict(), file)
        >>> metrics, images = GenerationMetrics("squeeze", backbone=file), torch.rand(8, 3, 32, 32)
        >>> metrics.update(images, real=True)
        >>> metrics.update(images, real=False)
        >>> values = metrics.compute()
        >>> values["precision_squeeze"].item(), values["coverage_squeeze"].item()
        (1.0, 1.0)
    """

    higher_is_better = None
    owner = Owner("GenerationMetrics", "", "leave GenerationMetrics out")
    min_images = DC_NEIGHBOURS + 1
    real_features: list[Tensor] | Tensor
    fake_features: list[Tensor] | Tensor

    def __init__(
        self, net: FeatureNetName = "efficientnet_lite0", backbone: str | None = None, seed: NonNegativeInt = 0
    ) -> None:
        super().__init__(net, backbone)
        self.seed = seed
        for kind in ("real", "fake"):
            self.add_state(f"{kind}_features", [], dist_reduce_fx="cat")

    def add_features(self, features: Tensor, kind: str) -> None:
        """Add features (B, D) to the set ``kind``, "real" or "fake"."""
        super().add_features(features, kind)
        getattr(self, f"{kind}_features").append(features.float())

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        """Return the metrics, float64 scalars by name."""
        values = {"fd": super().compute()}
        real, fake = (in_fixed_order(dim_zero_cat(features)) for features in (self.real_features, self.fake_features))
        size = min(SUBSET_SIZE, len(real), len(fake))
        kernel = kernel_distances(real, fake, SUBSETS, size, torch.Generator().manual_seed(self.seed))
        values |= {"kd": kernel.mean(), "kd_std": kernel.std(correction=0)} | neighbour_metrics(real, fake)
        return {f"{name}_{self.name}": value for name, value in values.items()}


def in_fixed_order(features: Tensor) -> Tensor:
    """Sort features (N, D) by their sums, so that the subsets do not depend on the order of ranks and batches."""
    return features[torch.cat([part.double().sum(1) for part in features.split(COLUMNS)]).argsort()]


def kernel_distances(real: Tensor, fake: Tensor, subsets: int, size: int, generator: torch.Generator) -> Tensor:
    """Return the kernel distance of random subsets of ``size`` rows of features (N, D) and (M, D), (subsets,)."""
    found = []
    for _ in range(subsets):
        rows = [torch.randperm(len(features), generator=generator)[:size] for features in (real, fake)]
        found.append(squared_mmd(real[rows[0].to(real.device)].double(), fake[rows[1].to(fake.device)].double()))
    return torch.stack(found)


def squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Return the unbiased estimate of the squared maximum mean discrepancy of x and y, both (N, D)."""
    count = len(x)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    within = sum(matrix.sum() - matrix.trace() for matrix in (kernel(x, x), kernel(y, y)))
    return within / (count * (count - 1)) - 2 * kernel(x, y).mean()


def neighbour_metrics(real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """Return precision, recall, density and coverage of features (N, D) and (M, D), float64 scalars."""
    radii, wide_radii = neighbour_distances(real, PR_NEIGHBOURS, DC_NEIGHBOURS)
    (fake_radii,) = neighbour_distances(fake, PR_NEIGHBOURS)
    precise = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)
    recalled, covered, inside = [], [], torch.zeros((), dtype=torch.int64, device=fake.device)
    rows = zip(distances(real, fake), radii.split(ROWS), wide_radii.split(ROWS), strict=True)
    for distance, radius, wide_radius in rows:  # (ROWS, M), (ROWS,), (ROWS,)
        precise |= (distance <= radius[:, None]).any(0)
        recalled.append((distance <= fake_radii).any(1))
        in_ball = distance <= wide_radius[:, None]
        covered.append(in_ball.any(1))
        inside += in_ball.sum()
    return {
        "precision": precise.double().mean(),
        "recall": torch.cat(recalled).double().mean(),
        "density": inside.double() / (DC_NEIGHBOURS * len(fake)),
        "coverage": torch.cat(covered).double().mean(),
    }


def neighbour_distances(features: Tensor, *ks: int) -> list[Tensor]:
    """Return the squared distance (N,) of each row of features (N, D) to its k-th neighbour, for each k in ``ks``."""
    # The smallest one is that of a row to itself.
    nearest = torch.cat([rows.topk(max(ks) + 1, largest=False).values for rows in distances(features, features)])
    return [nearest[:, k] for k in ks]


def distances(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Yield the squared distances (ROWS, M) of parts of x (N, D) to all y (M, D), in float64."""
    for rows in x.split(ROWS):
        yield torch.cat([squared_distances(rows.double(), part.double()) for part in y.split(COLUMNS)], dim=1)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return |x_i - y_j|^2 (N, M) of x (N, D) and y (M, D)."""
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp_min(0)
