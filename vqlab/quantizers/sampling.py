"""Drawing vectors by lot: the same draw on every rank, however the batch is divided and ordered.

A random *position* in the batch means another vector on two ranks than on one. Here each vector has a lot of its own,
and the lowest lots win; so the winners of a whole batch are the winners among its parts' winners, and a small gather
replaces one of all vectors.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vqlab.errors import UserError
from vqlab.nn.distributed import all_gather_rows

SEED_STRIDE = 1_000_003  # seeds lie farther apart than a run has steps


def uniform_by_sample(sample_index: Tensor, positions: int, seed: Tensor | int) -> Tensor:
    """Give each of the ``positions`` vectors of each sample a uniform number in (0, 1), (B * positions,).

    A hash (the finaliser of SplitMix64, Steele et al. 2014) of seed, sample and position, in integers: the same for a
    sample whatever the batch around it, and whatever rounding did to its vectors.

    Args:
        sample_index: (B,) int64, positions of the samples in the data set.
        positions: Vectors per sample.
        seed: Another seed gives independent lots; a tensor, so that a compiled forward need not know its value.
    """
    seed = torch.as_tensor(seed, device=sample_index.device)
    return (_operator if torch.compiler.is_compiling() else _hash)(sample_index, positions, seed)


def _hash(sample_index: Tensor, positions: int, seed: Tensor) -> Tensor:
    place = torch.arange(positions, device=sample_index.device)
    start = seed * (0xD1342543DE82EF95 - 2**64)
    x = (sample_index[:, None] * positions + place).flatten() * -7046029254386353131 + start
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685), (31, 1)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return (((x >> 11) & (2**53 - 1)).double() + 0.5).div_(2**53).clamp_max_(1 - 2**-53)  # the highest rounds to 1


# Hidden from the compiler: these products wrap around, which in its C++ is undefined and has made loops endless.
_operator = torch.library.custom_op("vqlab::uniform_by_sample", _hash, mutates_args=())
_operator.register_fake(lambda index, positions, seed: index.new_empty(index.shape[0] * positions, dtype=torch.float64))


def step_seed(seed: int, steps: Tensor) -> Tensor:
    """Return the seed of one step; another ``seed`` gives other ones at every step."""
    return seed * SEED_STRIDE % 2**62 + steps


def positions(rows: Tensor, sample_index: Tensor) -> int:
    """Return how many of the ``rows`` (N, D) belong to each of the samples (B,).

    Raises:
        UserError: If N is not a multiple of B.
    """
    if len(rows) % len(sample_index):
        raise UserError(
            f"{len(rows)} vectors cannot be shared by {len(sample_index)} samples: "
            "set quantizer.sample_index for each batch, or to None"
        )
    return len(rows) // len(sample_index)


def lots_by_content(rows: Tensor, seed: Tensor | int, center: Tensor) -> Tensor:
    """Give each row (N, D) a number in [0, 1], near uniform over varied rows, a continuous function of the row.

    A triangle wave of the row's direction from ``center`` (D,), along a random axis, and of its log distance:
    continuous, so that rounding differences between one process and two move a lot by about 1e-6 and not into another
    place. Each row is summed by itself in one order, so that equal rows get equal lots wherever in the batch they
    stand; a matrix product would not promise that. ``center`` must be the same on all ranks; seen from the origin, rows
    far from it would all have nearly one direction.
    """
    rows = (rows - center).contiguous()
    dim = rows.shape[1]
    drawn = uniform_by_sample(torch.zeros(1, dtype=torch.int64, device=rows.device), dim + 2, seed)
    axis = torch.special.ndtri(drawn[:dim])
    axis = (axis / axis.norm()).to(rows.dtype)
    phase, stretch = drawn[dim], drawn[dim + 1]
    waves = 4.0 * math.sqrt(dim)  # a random direction covers several periods in any dimension
    lengths = torch.linalg.vector_norm(rows, dim=1).double().clamp_min(1e-12)
    x = rows.mul_(axis).sum(1).double() / lengths + (1 + stretch) * lengths.log()
    return (2 * ((x * waves + phase) % 1.0) - 1).abs()


def exponential_race(lots: Tensor, weights: Tensor) -> Tensor:
    """Turn uniform ``lots`` (N,) into lots whose lowest are drawn with probability proportional to ``weights`` (N,).

    -ln(u) / w, the times of an exponential race (Efraimidis and Spirakis 2006). Rows of weight 0 never win. The ratio
    of two neighbouring times does not depend on N, so rounding hardly ever changes their order.
    """
    return -lots.clamp(1e-300, 1).log() / weights


def smallest_k(rows: Tensor, lots: Tensor, num: int, tolerance: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return the ``num`` rows (..., num, D) with the lowest lots and these lots (..., num), ascending.

    Of rows whose lots differ by no more than ``tolerance``, all but one go behind all others, for a code needs a vector
    of its own. Where fewer than ``num`` rows exist, the rest is zeros with infinite lots.
    """
    lots, order = lots.sort(dim=-1, stable=True)
    repeated = F.pad(lots.diff() <= tolerance, (1, 0))
    keep = first(lots.isfinite() & ~repeated, num)
    chosen, missing = order.gather(-1, keep), max(0, num - lots.shape[-1])
    rows, lots = rows.take_along_dim(chosen[..., None], -2), lots.gather(-1, keep)
    return F.pad(rows, (0, 0, 0, missing)), F.pad(lots, (0, missing), value=math.inf)


def first(flags: Tensor, num: int) -> Tensor:
    """Return the places of the first ``num`` True of ``flags`` (..., N), then of the first False if these are too few.

    (..., min(num, N)) int64, all different; no step waits for a GPU, as ``nonzero`` does.
    """
    size = flags.shape[-1]
    order = torch.arange(size, device=flags.device) + size * ~flags
    return order.topk(min(num, size), dim=-1, largest=False).values % size


def gather_smallest_k(rows: Tensor, lots: Tensor, num: int, tolerance: float = 0.0) -> tuple[Tensor, Tensor]:
    """Join the draws of all ranks (R rows each) and keep the ``num`` lowest lots, the same on every rank."""
    return smallest_k(all_gather_rows(rows), all_gather_rows(lots), num, tolerance)
