"""Finite scalar quantization (Mentzer et al. 2023, arXiv:2309.15505)."""

import math
from typing import Annotated

import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.nn.precision import float_dtype
from vqlab.quantizers.base import Quantizer, QuantizerOutput
from vqlab.validation import Range

Levels = Annotated[int, Range(2)]


class FSQ(Quantizer):
    """Round each of D bounded channels to a fixed number of levels, without a codebook that could collapse.

    tanh maps channel i to the range of its L_i levels, which are rounded (section 3.1 and appendix A.1); codes are
    scaled to [-1, 1]. The index is the mixed-radix number of the levels.

    Args:
        levels: Number of levels per channel, L_i; D = len(levels), K = their product. The paper recommends at least 5.

    Example:
        >>> fsq = FSQ([8, 5, 5, 5])
        >>> fsq.num_embeddings, tuple(fsq.encode(torch.randn(2, 4, 8, 8)).shape)
        (1000, (2, 8, 8))
    """

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: list[Levels] | tuple[Levels, ...] = (8, 5, 5, 5)) -> None:
        super().__init__()
        if not levels or math.prod(levels) > 2**62:  # an index is int64
            raise UserError(f"levels must be 1 or more numbers with a product of at most 2^62, got {list(levels)}")
        self.embedding_dim, self.num_embeddings = len(levels), math.prod(levels)
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        basis = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    @property
    def residual_gain(self) -> Tensor:  # type: ignore[override]
        """Ratio of the codes' range, L - 1 steps, to that of the rounding error, 1 step, (D,)."""
        return self.levels - 1.0

    def bound(self, rows: Tensor) -> Tensor:
        """Map to (-(L-1)/2, (L-1)/2), shifted by half a step where L is even, in units of L // 2."""
        half = (self.levels - 1).to(rows.dtype) * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0).to(rows.dtype)
        return ((rows + (offset / half).atanh()).tanh() * half - offset) / (self.levels // 2)

    def quantize(self, rows: Tensor) -> QuantizerOutput:
        digits = (rows.detach() * (self.levels // 2)).round().long() + self.levels // 2
        digits = digits.clamp_min(0).minimum(self.levels - 1)  # the margin of 0.1 % is one step at 1000 levels
        codes = self._codes(digits, rows.dtype)
        return QuantizerOutput(self.estimate(rows, codes), (digits * self.basis).sum(1), rows.new_zeros(()))

    def lookup(self, indices: Tensor) -> Tensor:
        return self._codes(indices.unsqueeze(-1) // self.basis % self.levels, float_dtype())

    def _codes(self, digits: Tensor, dtype: torch.dtype) -> Tensor:
        half = self.levels // 2
        return (digits - half).to(dtype) / half
