"""The contract of every quantizer: (B, D, *spatial) in, the same shape and (B, *spatial) integers out."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.codes import as_codes, check_code_range
from vqlab.nn.distributed import all_gather_rows, all_sum, world_size
from vqlab.nn.precision import KeepsFloat32, upcast, without_autocast
from vqlab.quantizers.estimators import straight_through
from vqlab.quantizers.sampling import smallest_k
from vqlab.serialization import ConfigMixin
from vqlab.validation import Count

MAX_EXPORT = 2**22  # codes in a table


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


@dataclass(frozen=True)
class QuantizerOutput:
    """What a quantizer returns.

    ``indices`` lie in [0, num_embeddings); with several codebooks they are (B, *spatial, num_codebooks).
    """

    quantized: Tensor  # (B, D, *spatial), the codes that replace the input, differentiable with respect to it
    indices: Tensor  # (B, *spatial) int64
    loss: Tensor  # scalar, to be added to the model's loss
    terms: dict[str, Tensor] = field(default_factory=dict)  # parts of the loss by name, detached, for logging
    stats: CodeStats | None = None  # for Quantizer.update; None in eval mode and where there is no state


class Revival(NamedTuple):
    """Rows of a codebook that revival replaced: an optimizer must reset its moments of them."""

    codebook: Tensor  # (K, D), a parameter or a buffer
    rows: Tensor  # (K,) bool


class Quantizer(ConfigMixin, KeepsFloat32, ABC):
    """Maps vectors to a finite set of codes.

    A subclass sets ``num_embeddings`` (K) and ``embedding_dim`` (D) and implements ``quantize`` and, unless it has a
    tensor ``codebook`` (K, D), ``lookup``, both on rows (N, D); with state that no gradient updates also ``commit``.
    Quantizing changes no state: a training forward returns ``stats``, which ``update(stats)`` applies, once per
    optimizer step. A quantizer does so itself at the end of a training forward, unless ``auto_update`` is False. If the
    samples of a batch are known as ``sample_index`` (B,), random numbers depend on them alone, not on their split over
    ranks. All computations are in float32 or higher, also under autocast and in a module cast to half precision.
    """

    num_embeddings: int
    embedding_dim: int
    codebook: Tensor  # (K, D), where there is such a tensor
    num_codebooks: int = 1  # indices per position; a composite has several, in the last index_dims axes of indices
    index_dims: int = 0
    estimate: Callable[[Tensor, Tensor], Tensor] = staticmethod(straight_through)  # from the code (N, D) to the row
    soft: bool = False  # whether quantized is itself differentiable, through probabilities, without an estimator
    needs_maps: bool = False  # whether single vectors cannot be quantized
    # Ratio of the input's range to that of the residual: (D,) or scalar; 1 if the codebook is learnt and adapts its
    # scale; None if the residual cannot be quantized again.
    residual_gain: Tensor | float | None = 1.0
    auto_update: bool = True
    sample_index: Tensor | None = None

    @abstractmethod
    def quantize(self, rows: Tensor) -> QuantizerOutput:
        """Quantize ``rows`` (N, D) that went through :meth:`bound`; indices (N,) or (N, num_codebooks)."""

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the codes (..., D) of ``indices`` (...) or (..., num_codebooks)."""
        return self.codebook[indices]

    def bound(self, rows: Tensor) -> Tensor:
        """Map ``rows`` (N, D) to the domain of the codes, such as a cube or a sphere."""
        return rows

    def forward(self, z: Tensor) -> QuantizerOutput:
        """Quantize ``z`` (B, D, *spatial)."""
        with without_autocast(z.device):
            out = self.quantize(self.bound(to_rows(z, self.embedding_dim)))
            self._update_alone(out)
        indices = out.indices.reshape(z.shape[0], *z.shape[2:], *out.indices.shape[1:])
        return replace(out, quantized=from_rows(out.quantized, z), indices=indices)

    def check_map(self, size: Sequence[int]) -> None:
        """Raise UserError if maps (B, D, *size) cannot be quantized."""
        return

    def encode(self, z: Tensor) -> Tensor:
        """Return the indices (B, *spatial) of ``z`` (B, D, *spatial)."""
        return self.forward(z).indices

    def decode(self, indices: Tensor) -> Tensor:
        """Return the codes (B, D, *spatial) of ``indices`` (B, *spatial), integers of any kind.

        Bit-equal to the ``quantized`` of ``forward``, until an update.

        Raises:
            UserError: If they are no integers, or one lies outside [0, num_embeddings); graphs do not check this.
        """
        indices = as_codes(indices, self._device)
        self.check_codes(indices)
        with without_autocast(indices.device):
            return self.assemble(indices)

    def assemble(self, indices: Tensor) -> Tensor:
        """Return the codes (B, D, *spatial) of checked ``indices`` (B, *spatial)."""
        return channels_first(self.lookup(indices))

    def check_codes(self, indices: Tensor) -> None:
        """Raise UserError if one of ``indices`` (...), or (..., num_codebooks), is no code."""
        check_code_range(indices, self.num_embeddings)

    def code_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the indices of one map of this ``size``, without the batch."""
        return tuple(size)

    def codebooks(self) -> dict[str, Tensor]:
        """Return all codes (K, D) as ``codebook``; a composite numbers its parts: ``codebook.0``, ``codebook.1``, ...

        Raises:
            UserError: If there are more than 2^22 codes.
        """
        if self.num_embeddings > MAX_EXPORT:
            raise UserError(f"{self.num_embeddings} codes are too many for a table: use quantizer.decode(indices)")
        return {"codebook": self.lookup(torch.arange(self.num_embeddings, device=self._device)).detach()}

    def check_part(self, residual: bool = False) -> None:
        """Raise UserError if this cannot be a part of another quantizer, such as one of residuals."""
        if self.needs_maps:
            raise UserError(f"quantizer must quantize single vectors, which {type(self).__name__} does not")
        if residual and self.residual_gain is None:
            raise UserError(
                f"quantizer must leave a residual that it can quantize again, which {type(self).__name__} does not: "
                "set distance=euclidean, or choose another quantizer"
            )

    @property
    def awaits_first_batch(self) -> bool:
        """Whether :meth:`initialize` is still to be done, here or in a part."""
        return any(module.awaited for module in self.modules() if isinstance(module, DataInit))

    def initialize(self, rows: Tensor) -> None:
        """Set up from the first batch's ``rows`` (N, D), bounded, the same on all ranks, unless done already."""
        return

    def update(self, stats: CodeStats) -> list[Revival]:
        """Apply the statistics of one optimizer step, summed over all ranks; return the rows that revival replaced."""
        with torch.no_grad():
            return self.commit(stats.synchronized())

    def commit(self, stats: CodeStats) -> list[Revival]:
        """Apply statistics that are already summed over the ranks."""
        return []

    def extra_repr(self) -> str:
        return f"num_embeddings={self.num_embeddings}, embedding_dim={self.embedding_dim}"

    @property
    def _device(self) -> torch.device | None:
        return next((state.device for state in chain(self.parameters(), self.buffers())), None)

    def _update_alone(self, out: QuantizerOutput) -> None:
        if out.stats is not None and self.auto_update and not torch.compiler.is_compiling():
            self.update(out.stats)


class IdentityQuantizer(Quantizer):
    """Return the features unchanged, with a single index, 0: a continuous autoencoder as a baseline.

    Args:
        embedding_dim: Channels of the features, D.

    Example:
        >>> z = torch.randn(2, 4, 10)
        >>> torch.equal(IdentityQuantizer(4)(z).quantized, z)
        True
    """

    num_embeddings = 1
    soft = True
    residual_gain = None

    def __init__(self, embedding_dim: Count = 64) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim

    def quantize(self, rows: Tensor) -> QuantizerOutput:
        return QuantizerOutput(rows, rows.new_zeros(len(rows)).long(), rows.new_zeros(()))

    def check_codes(self, indices: Tensor) -> None:
        self.lookup(indices)

    def lookup(self, indices: Tensor) -> Tensor:
        raise UserError("an IdentityQuantizer has no codes to decode: set quantizer=VectorQuantizer")


class DataInit(nn.Module):
    """A flag that a checkpoint keeps, with a plain-Python copy: reading a buffer would synchronize with the GPU."""

    seen: Tensor

    def __init__(self, awaited: bool = True) -> None:
        super().__init__()
        self.register_buffer("seen", torch.tensor(not awaited))
        self.awaited = awaited
        self.register_load_state_dict_post_hook(_read_flag)  # a lambda could not be pickled

    def done(self) -> None:
        self.seen.fill_(True)
        self.awaited = False


def _read_flag(flag: DataInit, _: object) -> None:
    flag.awaited = not bool(flag.seen)


def to_rows(z: Tensor, embedding_dim: int) -> Tensor:
    """Flatten (B, D, *spatial) to (N, D), N = B * prod(spatial), in float32 at least; raise UserError if D differs."""
    if z.ndim < 2 or z.shape[1] != embedding_dim:
        raise UserError(
            f"embedding_dim must be dimension 1 of the input, got {embedding_dim} and an input {tuple(z.shape)}"
        )
    if z.numel() == 0:
        raise UserError(f"the quantizer's input must not be empty, got {tuple(z.shape)}")
    return upcast(z).movedim(1, z.ndim - 1).reshape(-1, embedding_dim)


def from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """Undo :func:`to_rows`: (N, D) back to the shape and dtype of ``like`` (B, D, *spatial)."""
    return channels_first(rows.reshape(like.shape[0], *like.shape[2:], like.shape[1])).to(like.dtype)


def channels_first(z: Tensor) -> Tensor:
    """(B, *spatial, D) to (B, D, *spatial); the ONNX exporter mistakes a negative axis of ``movedim``."""
    return z.movedim(z.ndim - 1, 1)
