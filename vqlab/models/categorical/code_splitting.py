"""Categorical codes that represent too many images give half of them to codes that represent hardly any."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.categorical import CategoricalCode
from vqlab.nn.distributed import all_sum

LOOK = 100  # draws per code between two splits: enough to know a common code from a rare one


class CodeSplitter(nn.Module):
    """Split common codes over rare ones, as Linde, Buzo and Gray (1980) grow a codebook.

    After each ``LOOK`` * K draws, the commonest code is paired with the rarest, the next with the next, down to the
    median. Where the common one was drawn ``ratio`` times as often, the rare one becomes its copy, with its optimizer
    state, and q halves the probability of the common one between the two. With a uniform prior ln p(x) gains up to
    ln 2 for each position that holds the code, because two codes now represent what one did.

    Args:
        num_codebooks: Variables per place, V; each has codes of its own.
        num_embeddings: K.
        ratio: How many times as often the common code must have been drawn; above 2, else halves would split again.
    """

    counts: Tensor
    total: Tensor  # codes split since the last line of the log

    def __init__(self, num_codebooks: int, num_embeddings: int, ratio: float) -> None:
        super().__init__()
        if not ratio > 2:
            raise UserError(
                f"split_ratio must be above 2, got {ratio}: set --model.split_ratio=3, or null not to split"
            )
        self.ratio = ratio
        self.register_buffer("counts", torch.zeros(num_codebooks, num_embeddings, dtype=torch.int64))
        self.register_buffer("total", torch.zeros((), dtype=torch.int64))

    def count(self, codes: Tensor) -> None:
        """Count a batch's codes (B, P), of all ranks."""
        books, size = self.counts.shape
        offset = torch.arange(books, device=codes.device) * size
        drawn = torch.bincount((codes.view(-1, books) + offset).flatten(), minlength=books * size)
        self.counts += all_sum(drawn).view(books, size)

    @torch.no_grad()
    def split(self, code: CategoricalCode, optimizer: Any) -> None:
        """Split if it is time, right after the ``optimizer`` stepped: the same on all ranks."""
        books, size = self.counts.shape
        if self.counts[0].sum() < LOOK * size:
            return
        offset = torch.arange(books, device=self.counts.device)[:, None] * size
        order = self.counts.argsort(dim=1, stable=True)
        half = order.shape[1] // 2
        rare, common = order[:, :half], order.flip(1)[:, :half]
        splits = self.counts.gather(1, common) >= self.ratio * (self.counts.gather(1, rare) + 1)
        to, of = ((chosen + offset)[splits] for chosen in (rare, common))
        bias = code.logits.bias
        assert bias is not None
        for parameter in (code.codebook, code.logits.weight, bias):
            remembered = [v for v in optimizer.state.get(parameter, {}).values() if v.shape == parameter.shape]
            for value in (parameter, *remembered):
                rows = value.view(self.counts.numel(), -1)
                rows[to] = rows[of]
        bias[to] -= math.log(2)
        bias[of] -= math.log(2)
        self.total += len(to)
        self.counts.zero_()
