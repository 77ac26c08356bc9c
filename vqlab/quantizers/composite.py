"""What residual and product quantizers share: several quantizers made from one."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.quantizers.base import Quantizer, QuantizerOutput, Revival
from vqlab.quantizers.sampling import SEED_STRIDE
from vqlab.quantizers.stats import CodeStats
from vqlab.serialization import from_config, to_config


class Composite(Quantizer):
    """Several equal quantizers, made from one; each has a codebook of its own.

    Args:
        quantizer: The first of them; the others are made with the same arguments and other seeds.
        num: How many.
    """

    def __init__(self, quantizer: Quantizer, num: int) -> None:
        super().__init__()
        if quantizer.needs_maps:
            raise UserError(f"{type(quantizer).__name__} quantizes maps, not vectors: put it outside, not inside")
        self.init_args["quantizer"] = quantizer  # where the argument was null too
        self.parts = nn.ModuleList([quantizer, *(another(quantizer, part) for part in range(1, num))])
        for part in self.quantizers:
            part.auto_update = False  # the whole is updated at once, with one collective
        self.num_embeddings = quantizer.num_embeddings
        self.num_codebooks = num * quantizer.num_codebooks
        self.index_dims = 1 + quantizer.index_dims
        self.soft = quantizer.soft
        self.estimate = quantizer.estimate

    @property
    def quantizers(self) -> list[Quantizer]:
        """The parts, in order."""
        return list(self.parts)  # type: ignore[arg-type]

    def stack_stats(self, outs: list[QuantizerOutput], rows: Tensor) -> CodeStats | None:
        """Stack the statistics of the parts' ``outs``; in training there are always some, for steps are counted."""
        return CodeStats.stack([out.stats or CodeStats.empty(rows) for out in outs]) if self.training else None

    def codebooks(self) -> dict[str, Tensor]:
        """Return the parts' codes (K, D) as ``codebook.<part>``, each as its part has it, before any scaling."""
        return {
            name.replace("codebook", f"codebook.{number}", 1): codes
            for number, part in enumerate(self.quantizers)
            for name, codes in part.codebooks().items()
        }

    def check_codes(self, indices: Tensor) -> None:
        """Raise UserError if one of ``indices`` (..., num) is no code of its part, or there are not ``num``."""
        if indices.ndim <= self.index_dims or indices.shape[-self.index_dims] != len(self.parts):
            shape = ", ".join(map(str, self.code_shape(())))
            raise UserError(f"codes must be (B, ..., {shape}), got {tuple(indices.shape)}: give one for each quantizer")
        for part, index in zip(self.quantizers, indices.unbind(-self.index_dims), strict=True):
            part.check_codes(index)

    def code_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return ``size`` and the axis of the parts, with those of their own."""
        return (*size, len(self.parts), *self.quantizers[0].code_shape(()))

    def commit(self, stats: CodeStats) -> list[Revival]:
        """Hand each part its statistics."""
        return [
            revival for part, own in zip(self.quantizers, stats.unbind(), strict=True) for revival in part.commit(own)
        ]


def another(quantizer: Quantizer, number: int) -> Quantizer:
    """Build a quantizer with the arguments of ``quantizer`` and, wherever there is a ``seed``, another one."""
    return from_config(_reseeded(to_config(quantizer), number * quantizer.num_codebooks * SEED_STRIDE))


def _reseeded(spec: Any, shift: int) -> Any:
    if not isinstance(spec, dict):
        return spec
    return {k: v + shift if k == "seed" else _reseeded(v, shift) for k, v in spec.items()}
