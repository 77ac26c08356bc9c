"""Drawing vectors by lot: the same draw on every rank, however the batch is divided and ordered.

A random *position* in the batch means another vector on two ranks than on one. Here each vector has a lot of its own,
and the lowest lots win; so the winners of a whole batch are the winners among its parts' winners, and a small gather
replaces one of all vectors.
"""

import math

import torch
from torch import Tensor

from vqlab.nn.distributed import all_gather_rows


def lots_by_sample(sample_index: Tensor, positions: int, seed: int | Tensor) -> Tensor:
    """Give each of the ``positions`` vectors of each sample a uniform number in (0, 1), (B * positions,).

    A hash (the finaliser of SplitMix64, Steele et al. 2014) of seed, sample and position, in integers: the same for a
    sample whatever the batch around it, and whatever rounding did to its vectors.

    Args:
        sample_index: (B,) int64, positions of the samples in the data set.
        positions: Vectors per sample.
        seed: Another seed gives independent lots; a number or, for a compiled step, a tensor ().
    """
    place = torch.arange(positions, device=sample_index.device)
    start = torch.zeros_like(sample_index[:1]) + seed  # a tensor, whose products wrap around as the published ones do
    x = (sample_index[:, None] * positions + place).flatten() * -7046029254386353131 + start * -3372029247567499371
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685), (31, 1)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return (((x >> 11) & (2**53 - 1)).double() + 0.5).div_(2**53)


def lots_by_content(rows: Tensor, seed: int | Tensor, center: Tensor) -> Tensor:
    """Give each row (N, D) a number in [0, 1], near uniform over varied rows, a continuous function of the row.

    A triangle wave of the row's direction from ``center`` (D,), along a random axis, and of its log distance:
    continuous, so that rounding differences between one process and two move a lot by about 1e-6 and not into another
    place. Each row is summed by itself in one order, so that equal rows get equal lots wherever in the batch they
    stand; a matrix product would not promise that. ``center`` must be the same on all ranks; seen from the origin, rows
    far from it would all have nearly one direction.
    """
    rows = (rows - center).contiguous()
    number = torch.zeros(1, dtype=torch.int64, device=rows.device) + seed
    uniform = lots_by_sample(number, rows.shape[1] + 2, 0)
    phase, stretch, axis = uniform[0], uniform[1], torch.special.ndtri(uniform[2:])
    axis = (axis / axis.norm()).to(rows.dtype)
    waves = 4.0 * math.sqrt(rows.shape[1])  # a random direction covers several periods in any dimension
    lengths = torch.linalg.vector_norm(rows, dim=1).double().clamp_min(1e-12)
    x = rows.mul_(axis).sum(1).double() / lengths + (1 + stretch) * lengths.log()
    return (2 * ((x * waves + phase) % 1.0) - 1).abs()


def race(lots: Tensor, weights: Tensor) -> Tensor:
    """Turn uniform ``lots`` (N,) into lots whose lowest are drawn with probability proportional to ``weights`` (N,).

    -ln(u) / w, the times of an exponential race (Efraimidis and Spirakis 2006). Rows of weight 0 never win. The ratio
    of two neighbouring times does not depend on N, so rounding hardly ever changes their order.
    """
    return -lots.clamp(1e-300, 1).log() / weights


def lowest(rows: Tensor, lots: Tensor, num: int, tolerance: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return the ``num`` rows (num, D) with the lowest lots and these lots (num,), ascending.

    Of rows whose lots differ by no more than ``tolerance``, all but one go behind all others, for a code needs a vector
    of its own. Where fewer than ``num`` rows exist, the rest is zeros with infinite lots.
    """
    if missing := max(0, num - len(rows)):
        rows = torch.cat([rows, rows.new_zeros(missing, rows.shape[1])])
        lots = torch.cat([lots, lots.new_full((missing,), math.inf)])
    lots, order = lots.sort(stable=True)
    behind = 2 * lots.isinf().int()
    behind[1:] += (lots[1:] - lots[:-1] <= tolerance).int()  # inf - inf is NaN, and so is no repetition
    keep = behind.sort(stable=True).indices[:num]
    return rows[order[keep]], lots[keep]


def gather_lowest(rows: Tensor, lots: Tensor, num: int, tolerance: float = 0.0) -> tuple[Tensor, Tensor]:
    """Join the draws of all ranks (R rows each) and keep the ``num`` lowest lots, the same on every rank."""
    return lowest(all_gather_rows(rows), all_gather_rows(lots), num, tolerance)
