"""Drawing vectors by lot: the same draw on every rank, however the batch is divided and ordered.

A random *position* in the batch means another vector on two ranks than on one. Here each vector gets its lot from its
own content and a seed, and the lowest lots win; so the winners of a whole batch are the winners among its parts'
winners, and a small gather replaces one of all vectors.
"""

import math

import torch
from torch import Tensor

from vqlab.nn.distributed import all_gather_rows


def cast_lots(rows: Tensor, seed: int, center: Tensor) -> Tensor:
    """Give each row (N, D) a number in [0, 1], near uniform over varied rows, a continuous function of the row.

    A triangle wave of the row's direction from ``center`` (D,), along a random axis, and of its log distance:
    continuous, so that rounding differences between one process and two move a lot by about 1e-6 and not into another
    place. The sums are taken in float64, so that equal rows get equal lots wherever in the batch they stand. ``center``
    must be the same on all ranks; seen from the origin, rows far from it would all have nearly one direction.
    """
    rows = rows - center
    generator = torch.Generator().manual_seed(seed)
    axis = torch.randn(rows.shape[1], generator=generator)
    axis = (axis / axis.norm()).to(rows)
    phase, stretch = torch.rand(2, generator=generator).tolist()
    waves = 4.0 * math.sqrt(rows.shape[1])  # a random direction covers several periods in any dimension
    lengths = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).clamp_min(1e-12)
    x = (rows * axis).sum(1, dtype=torch.float64) / lengths + (1 + stretch) * lengths.log()
    return (2 * ((x * waves + phase) % 1.0) - 1).abs().to(rows.dtype)


def draw(rows: Tensor, num: int, seed: int, center: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ``num`` rows (num, D) with the lowest lots and these lots (num,), ascending.

    Where fewer than ``num`` rows exist, the rest is zeros with infinite lots.
    """
    if num == 0:
        return rows[:0], rows.new_empty(0)
    missing = max(0, num - len(rows))
    lots = cast_lots(rows, seed, center)
    if missing:
        rows = torch.cat([rows, rows.new_zeros(missing, rows.shape[1])])
        lots = torch.cat([lots, lots.new_full((missing,), math.inf)])
    return lowest(rows, lots, num)


def lowest(rows: Tensor, lots: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Keep the ``num`` lowest lots.

    Of equal rows, all but one go behind the others, for a code needs a vector of its own.
    """
    lots, order = lots.sort(stable=True)
    repeated = torch.zeros_like(lots, dtype=torch.bool)
    repeated[1:] = (lots[1:] == lots[:-1]) & (lots[1:] <= 1)
    lots, again = torch.where(repeated, lots + 2, lots).sort(stable=True)
    return rows[order[again[:num]]], lots[:num]


def gather_lowest(rows: Tensor, lots: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Join the draws of all ranks (R rows each) and keep the ``num`` lowest lots, the same on every rank."""
    packed = all_gather_rows(torch.cat([rows, lots[:, None]], 1))
    return lowest(packed[:, :-1], packed[:, -1], num)
