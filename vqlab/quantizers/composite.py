"""Quantizers made of several equal ones: residual (a sum of codes) and product (groups of channels)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.codes import in_graph
from vqlab.quantizers.base import CodeStats, Quantizer, QuantizerOutput, Revival
from vqlab.quantizers.sampling import SEED_STRIDE, step_seed, uniform_by_sample
from vqlab.quantizers.search import nearest_sum
from vqlab.quantizers.vector import VectorQuantizer
from vqlab.serialization import from_config, to_config
from vqlab.validation import Count, Fraction


class Composite(Quantizer):
    """``num`` quantizers with a codebook each: ``quantizer``, and others with equal arguments and different seeds."""

    def __init__(self, quantizer: Quantizer, num: int) -> None:
        super().__init__()
        quantizer.check_part()
        self.init_args["quantizer"] = quantizer  # the argument may be None
        self.parts = nn.ModuleList([quantizer, *(another(quantizer, part) for part in range(1, num))])
        for part in self.quantizers:
            part.auto_update = False  # one collective updates all parts
        self.num_embeddings = quantizer.num_embeddings
        self.num_codebooks = num * quantizer.num_codebooks
        self.index_dims = 1 + quantizer.index_dims
        self.soft, self.estimate = quantizer.soft, quantizer.estimate

    @property
    def quantizers(self) -> list[Quantizer]:
        """The parts, in order."""
        return list(self.parts)  # type: ignore[arg-type]

    def join(
        self, outs: list[QuantizerOutput], quantized: Tensor, indices: list[Tensor], reduce: Callable[[Tensor], Tensor]
    ) -> QuantizerOutput:
        """Combine the outputs of the parts; in training with statistics, because ``commit`` counts the steps."""
        loss = reduce(torch.stack([out.loss for out in outs]))
        terms = {name: reduce(torch.stack([out.terms[name] for out in outs])) for name in outs[0].terms}
        stats = CodeStats.stack([out.stats or CodeStats.empty(quantized) for out in outs]) if self.training else None
        return QuantizerOutput(quantized, torch.stack(indices, 1), loss, terms, stats)

    def codebooks(self) -> dict[str, Tensor]:
        return {
            name.replace("codebook", f"codebook.{number}", 1): codes
            for number, part in enumerate(self.quantizers)
            for name, codes in part.codebooks().items()
        }

    def check_codes(self, indices: Tensor) -> None:
        if indices.ndim <= self.index_dims or indices.shape[-self.index_dims] != len(self.parts):
            shape = ", ".join(map(str, self.code_shape(())))
            raise UserError(f"codes must be (B, ..., {shape}), one for each quantizer, got {tuple(indices.shape)}")
        for part, index in zip(self.quantizers, indices.unbind(-self.index_dims), strict=True):
            part.check_codes(index)

    def code_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        return (*size, len(self.parts), *self.quantizers[0].code_shape(()))

    def commit(self, stats: CodeStats) -> list[Revival]:
        parts = zip(self.quantizers, stats.unbind(), strict=True)
        return [revival for part, part_stats in parts for revival in part.commit(part_stats)]


def another(quantizer: Quantizer, number: int) -> Quantizer:
    """Build a quantizer with the arguments of ``quantizer``, except for a different value of each ``seed``."""
    shift = number * quantizer.num_codebooks * SEED_STRIDE

    def reseed(spec: Any) -> Any:
        return {k: v + shift if k == "seed" else reseed(v) for k, v in spec.items()} if isinstance(spec, dict) else spec

    return from_config(reseed(to_config(quantizer)))


class ProductQuantizer(Composite):
    """Split each vector into G groups of channels and quantize each separately: K^G combinations from G K codes.

    Jegou et al. 2011; UniTok's "multi-codebook" quantization (arXiv:2502.20321). The loss is the mean over the groups.

    Args:
        quantizer: Quantizer of a group, of dimension D / G. Default: a ``VectorQuantizer`` of dimension 32.
        num_groups: Number of groups, G.

    Shape:
        input and quantized (B, D, *spatial), D = G x the quantizer's dimension; indices (B, *spatial, G) int64.

    Example:
        >>> tuple(ProductQuantizer(VectorQuantizer(16, 4), num_groups=3).encode(torch.randn(2, 12, 8, 8)).shape)
        (2, 8, 8, 3)
    """

    def __init__(self, quantizer: Quantizer | None = None, num_groups: Count = 2) -> None:
        quantizer = quantizer or VectorQuantizer(embedding_dim=32)
        super().__init__(quantizer, num_groups)
        self.embedding_dim = num_groups * quantizer.embedding_dim

    @property
    def residual_gain(self) -> Tensor | float | None:  # type: ignore[override]
        """The gain of the parts; (D,) if it differs by channel."""
        gain = self.quantizers[0].residual_gain
        return gain.repeat(len(self.parts)) if isinstance(gain, Tensor) else gain

    def bound(self, rows: Tensor) -> Tensor:
        return torch.cat([part.bound(group) for part, group in self._groups(rows)], 1)

    def quantize(self, rows: Tensor) -> QuantizerOutput:
        outs = []
        for part, group in self._groups(rows):
            part.sample_index = self.sample_index
            outs.append(part.quantize(group))
        return self.join(outs, torch.cat([out.quantized for out in outs], 1), [out.indices for out in outs], torch.mean)

    def initialize(self, rows: Tensor, batches: int = 1) -> None:
        for part, group in self._groups(rows):
            part.initialize(group, batches)

    def lookup(self, indices: Tensor) -> Tensor:
        groups = zip(self.quantizers, indices.unbind(-self.index_dims), strict=True)
        return torch.cat([part.lookup(index) for part, index in groups], -1)

    def _groups(self, rows: Tensor) -> list[tuple[Quantizer, Tensor]]:
        return [*zip(self.quantizers, rows.chunk(len(self.parts), 1), strict=True)]


class ResidualQuantizer(Composite):
    """A sum of codes, coarse to fine: r_0 = z, e_d = Q_d(r_d), r_{d+1} = r_d - e_d, quantized = sum_d e_d.

    Lee et al. 2022 (RQ-VAE, arXiv:2203.01941), section 3.1; the loss is the sum over depths (equation 6). A fixed
    codebook (FSQ, LookupFree) is scaled at each depth to the residual. With probability ``dropout`` a training step
    uses the first n depths only, n uniform in 1 .. num_quantizers (SoundStream, arXiv:2107.03312, section 3.3). The
    other depths are trained, too; their indices are -1, which ``decode`` ignores.

    ``beam`` > 1 searches the codes of all depths together: depth after depth, the ``beam`` best partial sums are kept
    (Babenko and Lempitsky 2014, Additive Quantization, section 3.2). With 16 depths this is worth 1 to 2 dB.

    The attribute ``depths`` is the number of depths that a model in eval mode uses, all by default: one model encodes
    at many rates.

    Args:
        quantizer: Quantizer of a depth. Default: a ``VectorQuantizer``.
        num_quantizers: Number of depths, Q.
        dropout: Probability of a step that uses only some depths.
        seed: Seed of the dropout.
        beam: Number of partial sums that the search keeps; more than 1 needs a ``VectorQuantizer``.

    Shape:
        input and quantized (B, D, *spatial); indices (B, *spatial, Q) int64, or (B, *spatial, Q, G) if each depth is
        itself a product of G. ``decode`` also takes fewer than Q depths.

    Raises:
        UserError: If the quantizer leaves no residual, or has no codebook that a beam can search.

    Example:
        >>> tuple(ResidualQuantizer(VectorQuantizer(16, 4), num_quantizers=3).encode(torch.randn(2, 4, 8, 8)).shape)
        (2, 8, 8, 3)
    """

    steps: Tensor

    def __init__(
        self,
        quantizer: Quantizer | None = None,
        num_quantizers: Count = 4,
        dropout: Fraction = 0.0,
        seed: int = 0,
        beam: Count = 1,
    ) -> None:
        quantizer = quantizer or VectorQuantizer()
        quantizer.check_part(residual=True)
        if beam > 1 and type(quantizer) is not VectorQuantizer:
            raise UserError(
                f"beam must be 1 for a {type(quantizer).__name__}, got {beam}: only a VectorQuantizer can be searched"
            )
        super().__init__(quantizer, num_quantizers)
        self.embedding_dim = quantizer.embedding_dim
        self.dropout, self.seed, self.beam = dropout, seed, beam
        self.depths = num_quantizers
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @property
    def residual_gain(self) -> Tensor | float:  # type: ignore[override]
        """The gain of all depths together."""
        return self._gain(len(self.parts))

    def bound(self, rows: Tensor) -> Tensor:
        return self.quantizers[0].bound(rows)

    def quantize(self, rows: Tensor) -> QuantizerOutput:
        depth, parts = self._depth(), self.quantizers if self.training else self.quantizers[: self.depths]
        paths = self._search(rows, parts) if self.beam > 1 else None
        residual, total, outs, indices = rows, torch.zeros_like(rows), [], []
        for level, part in enumerate(parts):
            part.sample_index = self.sample_index
            if paths is None:
                out = part.quantize(residual * self._gain(level))
            else:
                out = part.assign(residual, paths[:, level])  # type: ignore[operator]
            code = out.quantized / self._gain(level)
            residual = residual - (code if self.soft else code.detach())
            total = total + torch.where(level < depth, code, 0)
            outs.append(out)
            indices.append(torch.where(level < depth, out.indices, -1))
        quantized = total if self.soft else self.estimate(rows, total.detach())
        return self.join(outs, quantized, indices, torch.sum)

    def code_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        return (*size, self.depths, *self.quantizers[0].code_shape(()))

    @torch.no_grad()
    def initialize(self, rows: Tensor, batches: int = 1) -> None:
        if not self.awaits_first_batch:
            return
        for level, part in enumerate(self.quantizers):
            scaled = rows * self._gain(level)
            part.initialize(scaled, batches)
            rows = rows - part.quantize(scaled).quantized / self._gain(level)

    def check_codes(self, indices: Tensor) -> None:
        """Raise UserError if one of ``indices`` (..., <= Q) is neither a code nor -1."""
        depths = indices.shape[-self.index_dims] if indices.ndim > self.index_dims else 0
        if not 1 <= depths <= len(self.parts):
            raise UserError(f"codes must have 1 to {len(self.parts)} depths, got {depths}: {tuple(indices.shape)}")
        for part, index, used in self._depths(indices):
            part.check_codes(index if in_graph() else index[used])

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the sum (..., D) of the codes of ``indices`` (..., <= Q), without those of -1."""
        total: Tensor | float = 0.0
        for level, (part, index, used) in enumerate(self._depths(indices)):
            total = total + torch.where(used[..., None], part.lookup(index) / self._gain(level), 0)
        return torch.as_tensor(total)

    def commit(self, stats: CodeStats) -> list[Revival]:
        self.steps += 1
        return super().commit(stats)

    def _depths(self, indices: Tensor) -> Iterator[tuple[Quantizer, Tensor, Tensor]]:
        """Yield the quantizer of each depth, its indices (...), and whether these are codes, (...) bool."""
        for part, index in zip(self.quantizers, indices.unbind(-self.index_dims), strict=False):
            used = index != -1
            used = used.flatten(index.ndim - part.index_dims).any(-1) if part.index_dims else used
            yield part, index, used

    def _search(self, rows: Tensor, parts: list[Quantizer]) -> Tensor:
        """Return the indices (N, Q) of the sum of codes that a beam finds."""
        if self.training:
            self.initialize(rows.detach())
        return nearest_sum(rows, [part.codebook for part in parts], self.beam)

    def _gain(self, level: int) -> Tensor | float:
        """Return the factor that scales the residual at depth ``level`` before quantization."""
        gain = self.quantizers[0].residual_gain
        return 1.0 if gain is None else gain**level

    def _depth(self) -> Tensor:
        """Return the number of depths that this step uses, a tensor, to avoid synchronization with the GPU."""
        every = torch.full_like(self.steps, len(self.parts))
        if not (self.training and self.dropout):
            return every
        drop, depth = uniform_by_sample(torch.zeros_like(self.steps)[None], 2, step_seed(self.seed, self.steps))
        return torch.where(drop < self.dropout, 1 + (depth * len(self.parts)).long(), every)
