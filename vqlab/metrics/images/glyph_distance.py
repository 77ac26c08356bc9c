"""Distances of generated glyphs to held-out ones of the target font, relative to those of the source font."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from vqlab.metrics.images.diversity import diversity
from vqlab.metrics.images.ssim import ssim

SMALL = 32  # side in pixels of the images that retrieval compares
GREY = (0.1, 0.9)  # between ink and paper


class GlyphDistance(Metric):
    """Distances of generated glyphs to the target's, each beside that of the identity, which returns the source.

    ``l1``, ``rmse``, ``ssim`` and ``iou`` (of the ink) are means over the glyphs; ``..._identity`` are the source's.
    ``l1_gain`` and ``rmse_gain`` are 1 - value / identity, ``ssim_gain`` and ``iou_gain`` value - identity: 0 is no
    better than a copy. ``dense_...`` are those of the quarter with the densest strokes.

    ``diversity`` is the spread of the glyphs over that of the targets (``metrics.images.diversity``), 0 for a collapsed
    generator; ``retrieval`` the fraction of glyphs whose nearest target of their style, in L1 at 32 pixels, is their
    own; ``grey`` the fraction of pixels between ink and paper over that of the targets, above 1 for blurred strokes;
    ``ink`` all ink over that of the targets.

    Shape:
        generated, target, source (B, 1, S, S) in [0, 1], 0 being ink; density (B,), more for more strokes; style (B,).

    Example:
        >>> metric, x = GlyphDistance(), torch.rand(8, 1, 32, 32)
        >>> metric.update(x, x, x.flip(-1), torch.arange(8.0), torch.zeros(8, dtype=torch.int64))
        >>> values = metric.compute()
        >>> values["l1_gain"].item(), values["retrieval"].item(), values["grey"].item()
        (1.0, 1.0, 1.0)
    """

    distances: list[Tensor]
    tones: list[Tensor]
    pictures: list[Tensor]
    density: list[Tensor]
    style: list[Tensor]
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("distances", "tones", "pictures", "density", "style"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, generated: Tensor, target: Tensor, source: Tensor, density: Tensor, style: Tensor) -> None:
        """Measure a batch."""
        generated, target, source = (x.float() for x in (generated, target, source))
        self.distances.append(torch.stack([distances(generated, target), distances(source, target)], 1))
        self.tones.append(torch.stack([tones(generated), tones(target)], 1))
        small = min(SMALL, target.shape[-1])
        pictures = [F.adaptive_avg_pool2d(x, small).flatten(1) for x in (generated, target, source)]
        self.pictures.append(torch.stack(pictures, 1))
        self.density.append(density.float())
        self.style.append(style)

    def compute(self) -> dict[str, Tensor]:
        """Return scalars by name."""
        apart, density, style = (dim_zero_cat(rows) for rows in (self.distances, self.density, self.style))
        figures = gains(apart)
        dense = density >= density.quantile(0.75)
        figures |= {f"dense_{name}": value for name, value in gains(apart[dense]).items()}
        mine, target, source = dim_zero_cat(self.pictures).unbind(1)
        made, wanted = dim_zero_cat(self.tones).mean(0)
        grey, ink = made / wanted.clamp_min(1e-6)
        return figures | {
            "diversity": diversity(mine, target),
            "retrieval": retrieval(mine, target, style),
            "retrieval_identity": retrieval(source, target, style),
            "grey": grey,
            "ink": ink,
        }


def distances(x: Tensor, target: Tensor) -> Tensor:
    """Return L1, RMSE, SSIM and the intersection of the ink over its union, (B, 4)."""
    apart = (x - target).flatten(1)
    inked, wanted = (x < 0.5).flatten(1), (target < 0.5).flatten(1)
    union = (inked | wanted).sum(1)
    iou = torch.where(union > 0, (inked & wanted).sum(1) / union.clamp_min(1), 1.0)
    return torch.stack([apart.abs().mean(1), apart.square().mean(1).sqrt(), ssim(x, target), iou], 1)


def gains(apart: Tensor) -> dict[str, Tensor]:
    """Return the means of (N, 2, 4) distances, of generated and of source glyphs, and the gains."""
    figures: dict[str, Tensor] = {}
    for name, (mine, identity) in zip(("l1", "rmse", "ssim", "iou"), apart.mean(0).T, strict=True):
        gain = mine - identity if name in ("ssim", "iou") else 1 - mine / identity.clamp_min(1e-6)
        figures |= {name: mine, f"{name}_identity": identity, f"{name}_gain": gain}
    return figures


def tones(x: Tensor) -> Tensor:
    """Return the fraction of pixels between ink and paper, and the mean ink, (B, 2)."""
    grey = ((x > GREY[0]) & (x < GREY[1])).float()
    return torch.stack([grey.flatten(1).mean(1), 1 - x.flatten(1).mean(1)], 1)


def retrieval(x: Tensor, target: Tensor, style: Tensor) -> Tensor:
    """Return the fraction of rows of ``x`` (N, n) whose own row of ``target`` is the nearest of their style."""
    apart = torch.cdist(x, target, p=1)
    apart = apart.masked_fill(style[:, None] != style, torch.inf)
    return (apart.diagonal() <= apart.amin(1)).float().mean()
