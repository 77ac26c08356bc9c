"""Code splitting: replace rare categorical codes by copies of common ones."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from vqlab.nn.categorical import CategoricalCode
from vqlab.nn.distributed import all_sum

LOOK = 100  # draws per code between two splits


class CodeSplitter(nn.Module):
    """Replace rare codes by copies of common ones, as Linde, Buzo and Gray (1980) split a codebook.

    After every ``LOOK`` * K draws, the most common code is paired with the rarest, and so on down to the median. If
    the common code was drawn ``ratio`` times as often, the rare one becomes its copy, with its optimizer state, and q
    gives each half of the common code's probability. With a uniform prior ln p(x) gains up to ln 2 for each position
    with this code.

    Args:
        num_codebooks: Variables per place, V; each has its own codes.
        num_embeddings: K.
        ratio: Smallest ratio of draws for a split; above 2, otherwise the halves would be split again.
    """

    counts: Tensor
    total: Tensor  # codes split since the last log line

    def __init__(self, num_codebooks: int, num_embeddings: int, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio
        self.register_buffer("counts", torch.zeros(num_codebooks, num_embeddings, dtype=torch.int64))
        self.register_buffer("total", torch.zeros((), dtype=torch.int64))

    def count(self, codes: Tensor) -> None:
        """Count a batch's codes (B, P), summed over ranks."""
        books, size = self.counts.shape
        offset = torch.arange(books, device=codes.device) * size
        drawn = torch.bincount((codes.view(-1, books) + offset).flatten(), minlength=books * size)
        self.counts += all_sum(drawn).view(books, size)

    @torch.no_grad()
    def split(self, code: CategoricalCode, optimizer: Any) -> None:
        """Split after every ``LOOK`` * K draws, right after the ``optimizer`` step, identically on all ranks."""
        books, size = self.counts.shape
        if self.counts[0].sum() < LOOK * size:
            return
        offset = torch.arange(books, device=self.counts.device)[:, None] * size
        order = self.counts.argsort(dim=1, stable=True)
        half = order.shape[1] // 2
        rare, common = order[:, :half], order.flip(1)[:, :half]
        splits = self.counts.gather(1, common) >= self.ratio * (self.counts.gather(1, rare) + 1)
        to, of = ((chosen + offset)[splits] for chosen in (rare, common))
        for parameter in code.rows():
            moments = [v for v in optimizer.state.get(parameter, {}).values() if v.shape == parameter.shape]
            for value in (parameter, *moments):
                rows = value.view(self.counts.numel(), -1)
                rows[to] = rows[of]
        bias = code.rows()[-1]
        bias[to] -= math.log(2)
        bias[of] -= math.log(2)
        self.total += len(to)
        self.counts.zero_()
