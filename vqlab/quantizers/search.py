"""Nearest code and softmax over codes, for N vectors and K codes without an array of N x K numbers."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vqlab.nn.codes import in_graph
from vqlab.nn.precision import without_autocast

SCORES = {"cpu": 2**19, "cuda": 2**26}  # scores of one block: 2 MiB on a CPU, about its cache; 256 MiB on a GPU
CODES = {"cpu": 2**12, "cuda": 2**16}  # codes of one block at most
LANES = 64  # divides the number of codes in a block
CHUNK_ELEMENTS = 2**22  # probabilities of one block: 16 MiB in float32, a few times that in the backward pass


def nearest_code(z: Tensor, codebook: Tensor) -> Tensor:
    """Return argmin_k |z_n - e_k|^2 as (N,) int64 for rows ``z`` (N, D), ``codebook`` (K, D); ties go to the lowest k.

    |z|^2 is omitted and the codebook's mean is subtracted from both sides, which reduces rounding errors. The product
    is float32 also under autocast and TF32. A row with NaN gets any index in [0, K). ``torch.compile`` records one
    operator; ``torch.export`` and ``torch.jit.trace`` record a plain product with all N x K scores.
    """
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        center = codebook.detach().mean(0)
        rows, codes = z.detach() - center, codebook.detach() - center
        return (rows @ codes.T - 0.5 * codes.square().sum(1)).argmax(1)
    if torch.compiler.is_compiling():
        return _operator(z.detach(), codebook.detach())
    return _search(z, codebook)


@torch.no_grad()
def _search(z: Tensor, codebook: Tensor) -> Tensor:
    num_codes, kind = len(codebook), "cpu" if z.device.type == "cpu" else "cuda"
    blocks = math.ceil(num_codes / CODES[kind])
    width = math.ceil(num_codes / blocks / LANES) * LANES  # the same for all blocks: equal codes get equal scores
    height = max(1, SCORES[kind] // width)
    lanes = 1 if kind == "cuda" else 32 if width < 2048 else 64
    order = torch.arange(width, device=z.device).view(lanes, -1).T.flatten()

    center = codebook.mean(0)
    indices = torch.zeros(len(z), dtype=torch.int64, device=z.device)
    highest = z.new_full((len(z),), -math.inf)
    with _full_precision(kind):
        for first in range(0, blocks * width, width):
            place = (order + first).clamp_(max=num_codes - 1)  # pad with copies of the last code, which win no tie
            codes = codebook[place] - center
            bias = -0.5 * codes.square().sum(1)
            for start in range(0, len(z), height):
                part = slice(start, start + height)
                score, column = _best(z[part] - center, codes, bias, lanes)
                indices[part] = torch.where(score > highest[part], place[column], indices[part])
                highest[part] = torch.maximum(score, highest[part])
    return indices


def nearest_sum(z: Tensor, codebooks: list[Tensor], width: int) -> Tensor:
    """Return the indices (N, Q) of codes, one of each of Q codebooks (K, D), whose sum is near to rows ``z`` (N, D).

    Beam search (Babenko and Lempitsky 2014, section 3.2): codebook after codebook, the ``width`` nearest partial sums
    are kept. A width of 1 is the greedy search of residual quantization. As in :func:`nearest_code` a mean is
    subtracted from both sides, that of the first codebook, and products are float32 also under TF32, except in graphs.
    """
    books = [codebook.detach() for codebook in codebooks]
    center = books[0].mean(0)
    z, books[0] = z.detach() - center, books[0] - center

    def search(rows: Tensor) -> tuple[Tensor]:
        residuals, steps = rows[:, None], []
        for codes in books:
            products = residuals @ codes.T
            distances = residuals.square().sum(2, keepdim=True) - 2 * products + codes.square().sum(1)
            kept = min(width, distances.shape[1] * len(codes))
            best = distances.flatten(1).topk(kept, largest=False).indices
            parent, code = best // len(codes), best % len(codes)
            residuals = residuals.gather(1, parent[..., None].expand(-1, -1, rows.shape[1])) - codes[code]
            steps.append((parent, code))
        place, indices = torch.zeros_like(steps[-1][0][:, :1]), []
        for parent, code in reversed(steps):
            indices.append(code.gather(1, place))
            place = parent.gather(1, place)
        return (torch.cat(indices[::-1], 1),)

    with torch.no_grad(), nullcontext() if in_graph() else _full_precision(z.device.type):
        return torch.cat([part for (part,) in in_chunks(search, width * max(map(len, books)), z)])


def largest_product(z: Tensor, codebook: Tensor) -> Tensor:
    """Return argmax_k z_n e_k as (N,) int64 for rows ``z`` (N, D), ``codebook`` (K, D), in float32 also under TF32."""
    with torch.no_grad(), nullcontext() if in_graph() else _full_precision(z.device.type):
        blocks = in_chunks(lambda rows: ((rows @ codebook.T).argmax(1),), len(codebook), z)
    return torch.cat([indices for (indices,) in blocks])


_operator = torch.library.custom_op("vqlab::nearest_code", _search, mutates_args=())
_operator.register_fake(lambda z, codebook: z.new_empty(z.shape[0], dtype=torch.int64))


def _best(rows: Tensor, codes: Tensor, bias: Tensor, lanes: int) -> tuple[Tensor, Tensor]:
    """Return the highest score z e - |e|^2 / 2 of each row and its column, (n,) each.

    On a CPU argmax is slower than the product, because only amax is vectorised. So column i * lanes + j holds code
    j * (K / lanes) + i: the first pass finds the lowest j, the second the lowest i.
    """
    if rows.device.type == "cpu" and rows.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        # oneDNN is as fast as MKL on some processors and twice as fast on others.
        scores = torch.ops.mkldnn._linear_pointwise(rows, codes, bias, "none", [], "")
    else:
        with without_autocast(rows.device):
            scores = torch.addmm(bias, rows, codes.T)
    if lanes == 1:
        column = scores.argmax(1)
        return scores.gather(1, column[:, None])[:, 0], column
    grid = scores.view(len(scores), -1, lanes)
    score, lane = grid.amax(1).max(1)
    return score, grid[torch.arange(len(grid)), :, lane].argmax(1) * lanes + lane


@contextmanager
def _full_precision(kind: str) -> Iterator[None]:
    """Multiply float32 matrices in float32, independently of ``torch.set_float32_matmul_precision``."""
    matmul = torch.backends.cuda.matmul if kind == "cuda" else torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, matmul.fp32_precision = matmul.fp32_precision, "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = "none"  # follow the general setting, as it usually does
        if matmul.fp32_precision != before:
            matmul.fp32_precision = before


def in_chunks(
    function: Callable[..., tuple[Tensor, ...]], width: int, rows: Tensor, *others: Tensor | None
) -> list[tuple[Tensor, ...]]:
    """Apply ``function`` to blocks of ``rows`` (N, D) and of ``others`` (N, ...); return the results by block.

    A block has at most ``CHUNK_ELEMENTS / width`` rows. The backward pass computes it again, with equal random numbers.
    """
    if torch.jit.is_tracing() or torch.compiler.is_exporting():  # the graph must support any number of rows
        return [function(rows, *others)]
    size = max(1, CHUNK_ELEMENTS // width)
    blocks = [[None if x is None else x[n : n + size] for x in (rows, *others)] for n in range(0, len(rows), size)]
    if not torch.is_grad_enabled():
        return [function(*block) for block in blocks]
    return [checkpoint(function, *block, use_reentrant=False) for block in blocks]


def entropy(probs: Tensor) -> Tensor:
    """Return -sum p ln p over the last dimension, in nats; the gradient at p = 0 is finite."""
    return -(probs * probs.clamp_min(1e-12).log()).sum(-1)


def finite_rows(rows: Tensor) -> Tensor:
    """Return whether each row (N, D) is finite, (N, 1) bool: only finite rows update a codebook."""
    return rows.sum(1, keepdim=True).isfinite()


def unit(rows: Tensor) -> Tensor:
    """Normalise ``rows`` (N, D) to length 1; divide by 1e-6 at least, so that the gradient at 0 is bounded."""
    return F.normalize(rows, dim=1, eps=1e-6)
