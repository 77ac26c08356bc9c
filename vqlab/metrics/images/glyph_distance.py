"""Distances of generated glyphs to held-out ones of the target font, relative to those of the source font."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from vqlab.metrics.images.quality import diversity, ssim

SMALL = 32  # side in pixels of the images that retrieval compares


class GlyphDistance(Metric):
    """Distances of generated glyphs to the target glyphs, and those of the source glyphs as a baseline.

    ``l1``, ``rmse``, ``ssim`` and ``iou`` (of the ink) are means over the glyphs, ``..._identity`` those of the source.
    ``l1_gain`` and ``rmse_gain`` are 1 - value / identity, ``ssim_gain`` and ``iou_gain`` value - identity: 0 is no
    better than a copy. ``dense_...`` are those of the quarter with the densest strokes. ``diversity`` is the spread of
    the glyphs over that of the targets, 0 for a collapsed generator; ``retrieval`` the fraction of glyphs whose nearest
    target of their style, in L1 at 32 pixels, is their own; ``grey`` the fraction of pixels in (0.1, 0.9) over that of
    the targets, above 1 for blurred strokes; ``ink`` the mean ink over that of the targets.

    Example:
        >>> metric, x = GlyphDistance(), torch.rand(8, 1, 32, 32)
        >>> metric.update(x, x, x.flip(-1), torch.arange(8.0), torch.zeros(8, dtype=torch.int64))
        >>> values = metric.compute()
        >>> values["l1_gain"].item(), values["retrieval"].item(), values["grey"].item()
        (1.0, 1.0, 1.0)
    """

    full_state_update = False
    rows: list[Tensor]
    images: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", [], dist_reduce_fx="cat")  # (B, 14): distances, tones, density and style
        self.add_state("images", [], dist_reduce_fx="cat")  # (B, 3, pixels)

    def update(self, generated: Tensor, target: Tensor, source: Tensor, density: Tensor, style: Tensor) -> None:
        """Add a batch of glyphs (B, 1, S, S) in [0, 1], 0 is ink, with number of strokes ``density`` and ``style``."""
        generated, target, source = (x.float() for x in (generated, target, source))
        pairs = distances(generated, target), distances(source, target), tones(generated), tones(target)
        self.rows.append(torch.cat([*pairs, density[:, None].float(), style[:, None].float()], 1))
        small = min(SMALL, target.shape[-1])
        images = [F.adaptive_avg_pool2d(x, small).flatten(1) for x in (generated, target, source)]
        self.images.append(torch.stack(images, 1))

    def compute(self) -> dict[str, Tensor]:
        """Return scalars by name."""
        made, identity, tone, target_tone, density, style = dim_zero_cat(self.rows).split([4, 4, 2, 2, 1, 1], 1)
        dense = density[:, 0] >= density.quantile(0.75)
        dense_gains = gains(made[dense], identity[dense])
        generated, target, source = dim_zero_cat(self.images).unbind(1)
        grey, ink = tone.mean(0) / target_tone.mean(0).clamp_min(1e-6)
        return {
            **gains(made, identity),
            **{f"dense_{name}": value for name, value in dense_gains.items()},
            "diversity": diversity(generated, target),
            "retrieval": retrieval(generated, target, style[:, 0]),
            "retrieval_identity": retrieval(source, target, style[:, 0]),
            "grey": grey,
            "ink": ink,
        }


def distances(x: Tensor, target: Tensor) -> Tensor:
    """Return L1, RMSE, SSIM and the intersection of the ink over its union, (B, 4)."""
    error = (x - target).flatten(1)
    ink, target_ink = (x < 0.5).flatten(1), (target < 0.5).flatten(1)
    union = (ink | target_ink).sum(1)
    iou = torch.where(union > 0, (ink & target_ink).sum(1) / union.clamp_min(1), 1.0)
    return torch.stack([error.abs().mean(1), error.square().mean(1).sqrt(), ssim(x, target), iou], 1)


def gains(made: Tensor, identity: Tensor) -> dict[str, Tensor]:
    """Return the means of the distances (N, 4) of generated and of source glyphs, and the gains."""
    values: dict[str, Tensor] = {}
    for name, mean, base in zip(("l1", "rmse", "ssim", "iou"), made.mean(0), identity.mean(0), strict=True):
        gain = mean - base if name in ("ssim", "iou") else 1 - mean / base.clamp_min(1e-6)
        values |= {name: mean, f"{name}_identity": base, f"{name}_gain": gain}
    return values


def tones(x: Tensor) -> Tensor:
    """Return the fraction of grey pixels and the mean ink, (B, 2)."""
    grey = ((x > 0.1) & (x < 0.9)).float()
    return torch.stack([grey.flatten(1).mean(1), 1 - x.flatten(1).mean(1)], 1)


def retrieval(x: Tensor, target: Tensor, style: Tensor) -> Tensor:
    """Return the fraction of rows of ``x`` (N, n) that are nearest to the same row of ``target`` within their style."""
    distance = torch.cdist(x, target, p=1).masked_fill(style[:, None] != style, torch.inf)
    return (distance.diagonal() <= distance.amin(1)).float().mean()
