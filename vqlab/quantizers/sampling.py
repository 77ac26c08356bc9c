"""Random subsets of vectors by their smallest random keys: the same on every rank and for every split of the batch."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vqlab.errors import UserError

SEED_STRIDE = 1_000_003  # distance between two seeds, larger than the number of steps of a run


def uniform_by_sample(sample_index: Tensor, positions: int, seed: Tensor | int) -> Tensor:
    """Return a uniform random number in (0, 1) for each of the ``positions`` vectors of each sample, (B * positions,).

    Each number is an integer hash (SplitMix64, Steele et al. 2014) of ``seed``, ``sample_index`` (B,) and position.
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


# One operator for the compiler: these products overflow, which is undefined behaviour in its C++ code.
_operator = torch.library.custom_op("vqlab::uniform_by_sample", _hash, mutates_args=())
_operator.register_fake(lambda index, positions, seed: index.new_empty(index.shape[0] * positions, dtype=torch.float64))


def step_seed(seed: int, steps: Tensor) -> Tensor:
    """Return the seed of a step; different values of ``seed`` give different seeds at every step."""
    return seed * SEED_STRIDE % 2**62 + steps


def positions(rows: Tensor, sample_index: Tensor) -> int:
    """Return the number of ``rows`` (N, D) per sample (B,)."""
    if len(rows) % len(sample_index):
        found = f"got {len(sample_index)} samples and {len(rows)} vectors"
        raise UserError(f"sample_index must divide the vectors, {found}: set it for each batch, or to None")
    return len(rows) // len(sample_index)


def uniform_by_content(rows: Tensor, seed: Tensor | int, center: Tensor) -> Tensor:
    """Return a number in [0, 1] for each row (N, D), almost uniformly distributed and continuous in the row.

    It is a triangle wave of the row's direction from ``center`` (D,) along a random axis and of its log distance, so
    rounding changes it by about 1e-6 only. Equal rows get equal numbers: a matrix product would not guarantee this.
    """
    rows = (rows - center).contiguous()
    dim = rows.shape[1]
    drawn = uniform_by_sample(torch.zeros(1, dtype=torch.int64, device=rows.device), dim + 2, seed)
    axis = F.normalize(torch.special.ndtri(drawn[:dim]), dim=0).to(rows.dtype)
    phase, stretch = drawn[dim:]
    waves = 4.0 * math.sqrt(dim)  # a random direction covers several periods in any dimension
    lengths = torch.linalg.vector_norm(rows, dim=1).double().clamp_min(1e-12)
    x = rows.mul_(axis).sum(1).double() / lengths + (1 + stretch) * lengths.log()
    return (2 * ((x * waves + phase) % 1.0) - 1).abs()


def smallest_k(rows: Tensor, keys: Tensor, num: int, tolerance: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return the ``num`` rows (..., num, D) with the smallest ``keys`` (..., N) and these keys (..., num), ascending.

    Rows whose keys differ by at most ``tolerance`` count as equal; all but one of them are placed last. If there are
    fewer than ``num`` rows, the result is padded with zero rows and infinite keys.
    """
    keys, order = keys.sort(dim=-1, stable=True)
    repeated = F.pad(keys.diff() <= tolerance, (1, 0))
    keep = first(keys.isfinite() & ~repeated, num)
    chosen, missing = order.gather(-1, keep), max(0, num - keys.shape[-1])
    rows, keys = rows.take_along_dim(chosen[..., None], -2), keys.gather(-1, keep)
    return F.pad(rows, (0, 0, 0, missing)), F.pad(keys, (0, missing), value=math.inf)


def first(flags: Tensor, num: int) -> Tensor:
    """Return the positions (..., min(num, N)) of the first ``num`` True of ``flags`` (..., N), then of False."""
    size = flags.shape[-1]  # nonzero would synchronize with the GPU
    order = torch.arange(size, device=flags.device) + size * ~flags
    return order.topk(min(num, size), dim=-1, largest=False).values % size
