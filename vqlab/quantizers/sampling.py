"""Random subsets of vectors: the same on every rank, however the batch is split and ordered.

Each vector has a random key of its own, and the k smallest keys are chosen: those of a batch are among those of its
parts, so that a small gather replaces one of all vectors.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vqlab.errors import UserError

SEED_STRIDE = 1_000_003  # between two seeds: more than a run has steps


def uniform_by_sample(sample_index: Tensor, positions: int, seed: Tensor | int) -> Tensor:
    """Return a uniform random number in (0, 1) for each of the ``positions`` vectors of each sample, (B * positions,).

    An integer hash (the finaliser of SplitMix64, Steele et al. 2014) of seed, sample (B,) int64 and position: it
    depends neither on the rest of the batch nor on rounding in the vectors. A ``seed`` that is a tensor does not make a
    compiled forward depend on its value.
    """
    seed = torch.as_tensor(seed, device=sample_index.device)
    return (_operator if torch.compiler.is_compiling() else _hash)(sample_index, positions, seed)


def _hash(sample_index: Tensor, positions: int, seed: Tensor) -> Tensor:
    place = torch.arange(positions, device=sample_index.device)
    start = seed * (0xD1342543DE82EF95 - 2**64)
    x = (sample_index[:, None] * positions + place).flatten() * -7046029254386353131 + start
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685), (31, 1)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return (((x >> 11) & (2**53 - 1)).double() + 0.5).div_(2**53).clamp_max_(1 - 2**-53)  # the largest rounds to 1


# Hidden from the compiler: these products overflow, which is undefined in its C++ and has caused endless loops.
_operator = torch.library.custom_op("vqlab::uniform_by_sample", _hash, mutates_args=())
_operator.register_fake(lambda index, positions, seed: index.new_empty(index.shape[0] * positions, dtype=torch.float64))


def step_seed(seed: int, steps: Tensor) -> Tensor:
    """Return the seed of one step; runs with different ``seed`` share none."""
    return seed * SEED_STRIDE % 2**62 + steps


def positions(rows: Tensor, sample_index: Tensor) -> int:
    """Return how many of the ``rows`` (N, D) belong to each of the samples (B,)."""
    if len(rows) % len(sample_index):
        raise UserError(
            f"sample_index must divide the vectors, got {len(sample_index)} samples and {len(rows)} vectors: set it "
            "for each batch, or to None"
        )
    return len(rows) // len(sample_index)


def uniform_by_content(rows: Tensor, seed: Tensor | int, center: Tensor) -> Tensor:
    """Return a number in [0, 1] for each row (N, D), almost uniform over varied rows and continuous in the row.

    A triangle wave of the row's direction from ``center`` (D,), the same on all ranks, along a random axis, and of its
    log distance: rounding differences between one process and two change it by about 1e-6 only. Each row is summed by
    itself, not in a matrix product, so that equal rows get equal numbers anywhere in the batch.
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


def exponential_race(uniform: Tensor, weights: Tensor) -> Tensor:
    """Return keys (N,) whose smallest are a sample with probability proportional to ``weights`` (N,).

    -ln(u) / w of ``uniform`` random numbers (N,), the times of an exponential race (Efraimidis and Spirakis 2006).
    """
    return -uniform.clamp(1e-300, 1).log() / weights


def smallest_k(rows: Tensor, keys: Tensor, num: int, tolerance: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return the ``num`` rows (..., num, D) with the smallest ``keys`` (..., N) and these keys (..., num), ascending.

    Of rows whose keys differ by at most ``tolerance``, all but one go to the end, because each code needs a vector of
    its own. If there are fewer than ``num`` rows, the rest is zeros with infinite keys.
    """
    keys, order = keys.sort(dim=-1, stable=True)
    repeated = F.pad(keys.diff() <= tolerance, (1, 0))
    keep = first(keys.isfinite() & ~repeated, num)
    chosen, missing = order.gather(-1, keep), max(0, num - keys.shape[-1])
    rows, keys = rows.take_along_dim(chosen[..., None], -2), keys.gather(-1, keep)
    return F.pad(rows, (0, 0, 0, missing)), F.pad(keys, (0, missing), value=math.inf)


def first(flags: Tensor, num: int) -> Tensor:
    """Return the positions (..., min(num, N)) of the first ``num`` True of ``flags`` (..., N), then of the first False.

    Without the synchronization with the GPU that ``nonzero`` needs.
    """
    size = flags.shape[-1]
    order = torch.arange(size, device=flags.device) + size * ~flags
    return order.topk(min(num, size), dim=-1, largest=False).values % size
