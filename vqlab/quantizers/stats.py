"""What a training batch says about the codes, joined over micro-batches and ranks."""

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
    """Statistics of one codebook, or of several stacked in leading dimensions (...).

    Attributes:
        counts: (..., K) float, number of vectors assigned to each code.
        sums: (..., K, D) sum of the vectors assigned to each code; (..., K, 0) where the codebook does not need it.
        candidates: (..., R, D) vectors drawn by lot, for reviving dead codes.
        lots: (..., R) float64, the candidates' lots, ascending; infinite where a candidate is missing.
    """

    counts: Tensor
    sums: Tensor
    candidates: Tensor
    lots: Tensor

    @classmethod
    def empty(cls, like: Tensor) -> "CodeStats":
        """Return the statistics of a quantizer that learns nothing from them, or only counts its steps."""
        none = like.new_zeros(0)
        return cls(none, like.new_zeros(0, 0), like.new_zeros(0, 0), none.double())

    @classmethod
    def stack(cls, parts: "Sequence[CodeStats]") -> "CodeStats":
        """Stack the statistics of equal codebooks in a new first dimension; missing candidates have infinite lots."""
        most = max(part.lots.shape[-1] for part in parts)
        missing = [most - part.lots.shape[-1] for part in parts]
        return cls(
            torch.stack([part.counts for part in parts]),
            torch.stack([part.sums for part in parts]),
            torch.stack([F.pad(part.candidates, (0, 0, 0, n)) for part, n in zip(parts, missing, strict=True)]),
            torch.stack([F.pad(part.lots, (0, n), value=math.inf) for part, n in zip(parts, missing, strict=True)]),
        )

    def unbind(self) -> "list[CodeStats]":
        """Undo :meth:`stack`."""
        fields = zip(self.counts, self.sums, self.candidates, self.lots, strict=True)
        return [CodeStats(*part) for part in fields]

    def __add__(self, other: "CodeStats") -> "CodeStats":
        """Join the statistics of two batches that share one optimizer step."""
        candidates, lots = torch.cat([self.candidates, other.candidates], -2), torch.cat([self.lots, other.lots], -1)
        return CodeStats(
            self.counts + other.counts, self.sums + other.sums, *smallest_k(candidates, lots, self.lots.shape[-1])
        )

    def synchronized(self) -> "CodeStats":
        """Join the statistics of all ranks: one sum, packed, and one gather of the few candidates."""
        if world_size() == 1 or self.counts.numel() == 0:
            return self
        packed = all_sum(torch.cat([self.sums, self.counts[..., None]], -1))
        counts, sums = packed[..., -1], packed[..., :-1]
        if self.lots.numel() == 0:  # as on all ranks: nothing is ever revived
            return CodeStats(counts, sums, self.candidates, self.lots)
        candidates = all_gather_rows(self.candidates.movedim(-2, 0)).movedim(0, -2)  # (..., world * R, D)
        lots = all_gather_rows(self.lots.movedim(-1, 0)).movedim(0, -1)
        return CodeStats(counts, sums, *smallest_k(candidates, lots, self.lots.shape[-1]))
