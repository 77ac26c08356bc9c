"""Statistics of the codes in a training batch, joined over micro-batches and ranks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vqlab.nn.distributed import all_gather_rows, all_sum, world_size
from vqlab.quantizers.sampling import smallest_k


@dataclass(frozen=True)
class CodeStats:
    """Statistics of one codebook, or of several stacked in leading dimensions (...)."""

    counts: Tensor  # (..., K) float, vectors assigned to each code
    sums: Tensor  # (..., K, D), sum of the vectors assigned to each code; (..., K, 0) where the codebook needs none
    candidates: Tensor  # (..., R, D), randomly chosen vectors, to replace dead codes
    keys: Tensor  # (..., R) float64, the candidates' random keys, ascending; infinite where a candidate is missing

    @classmethod
    def empty(cls, like: Tensor) -> "CodeStats":
        """Return the statistics of a quantizer that only counts its steps."""
        none = like.new_zeros(0)
        return cls(none, like.new_zeros(0, 0), like.new_zeros(0, 0), none.double())

    @classmethod
    def stack(cls, parts: "Sequence[CodeStats]") -> "CodeStats":
        """Stack the statistics of equal codebooks in a new first dimension; missing candidates have infinite keys."""
        most = max(part.keys.shape[-1] for part in parts)
        candidates = [F.pad(part.candidates, (0, 0, 0, most - part.candidates.shape[-2])) for part in parts]
        keys = [F.pad(part.keys, (0, most - part.keys.shape[-1]), value=math.inf) for part in parts]
        counts, sums = [part.counts for part in parts], [part.sums for part in parts]
        return cls(*map(torch.stack, (counts, sums, candidates, keys)))

    def unbind(self) -> "list[CodeStats]":
        """Undo :meth:`stack`."""
        return [CodeStats(*part) for part in zip(self.counts, self.sums, self.candidates, self.keys, strict=True)]

    def __add__(self, other: "CodeStats") -> "CodeStats":
        """Join the statistics of two batches that share one optimizer step."""
        candidates, keys = torch.cat([self.candidates, other.candidates], -2), torch.cat([self.keys, other.keys], -1)
        chosen = smallest_k(candidates, keys, self.keys.shape[-1])
        return CodeStats(self.counts + other.counts, self.sums + other.sums, *chosen)

    def synchronized(self) -> "CodeStats":
        """Join the statistics of all ranks: one sum, packed, and one gather of the few candidates."""
        if world_size() == 1 or self.counts.numel() == 0:
            return self
        packed = all_sum(torch.cat([self.sums, self.counts[..., None]], -1))
        counts, sums = packed[..., -1], packed[..., :-1]
        if self.keys.numel() == 0:  # as on all ranks: nothing is ever revived
            return CodeStats(counts, sums, self.candidates, self.keys)
        candidates = all_gather_rows(self.candidates.movedim(-2, 0)).movedim(0, -2)  # (..., world * R, D)
        keys = all_gather_rows(self.keys.movedim(-1, 0)).movedim(0, -1)
        return CodeStats(counts, sums, *smallest_k(candidates, keys, self.keys.shape[-1]))
