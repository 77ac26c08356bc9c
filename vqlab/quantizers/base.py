"""The contract of every quantizer: (B, D, *spatial) in, the same shape and (B, *spatial) integers out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.nn.codes import as_codes, check_code_range
from vqlab.nn.precision import KeepsFloat32, upcast, without_autocast
from vqlab.quantizers.data_init import DataInit
from vqlab.quantizers.estimators import straight_through
from vqlab.quantizers.stats import CodeStats
from vqlab.serialization import ConfigMixin

MAX_EXPORT = 2**22


@dataclass(frozen=True)
class QuantizerOutput:
    """What a quantizer returns.

    Attributes:
        quantized: (B, D, *spatial), the codes that replace the input, differentiable with respect to it.
        indices: (B, *spatial) int64 in [0, num_embeddings); with several codebooks (B, *spatial, num_codebooks).
        loss: Scalar, to be added to the model's loss.
        terms: The parts of ``loss`` by name, detached, for logging.
        stats: Training statistics for :meth:`Quantizer.update`; None in eval mode and where there is no state.
    """

    quantized: Tensor
    indices: Tensor
    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    stats: CodeStats | None = None


class Revival(NamedTuple):
    """Rows of a codebook that were overwritten: an optimizer must forget its moments of them.

    Attributes:
        codebook: (K, D), a parameter or a buffer.
        rows: (K,) bool.
    """

    codebook: Tensor
    rows: Tensor


class Quantizer(ConfigMixin, KeepsFloat32, ABC):
    """Maps vectors to a finite set of codes.

    A subclass sets ``num_embeddings`` (K) and ``embedding_dim`` (D) and writes ``quantize`` and ``lookup``, both on
    rows (N, D); one with state learnt outside the gradient also writes ``commit``. Quantizing changes no state: what a
    training batch teaches comes back as ``stats``, and ``update(stats)`` takes it in, once per optimizer step. Used
    alone, a quantizer calls ``update`` itself at the end of a training forward; a model that accumulates batches or
    compiles its forward sets ``auto_update = False`` and calls it after its optimizer step. A model that knows which
    samples a batch holds sets ``sample_index`` (B,) before a training forward; what is drawn at random then depends on
    the samples alone, and not on how the ranks share them.

    Everything inside is float32 at least, under any autocast and in a module that was cast to half precision: the sums
    that a codebook is learnt from, and the differences between distances, are lost in fewer bits.

    Attributes:
        num_codebooks: Indices per position; a composite has several, in the last ``index_dims`` axes of ``indices``.
        index_dims: Axes of ``indices`` behind the spatial ones.
        estimate: How a gradient passes from the code (N, D) to the row (N, D).
        soft: True where no estimate is needed: ``quantized`` is differentiable by itself, through probabilities.
        needs_maps: True where single vectors cannot be quantized.
        residual_gain: How many times smaller than the input what a code leaves over is: (D,) or scalar. 1 where the
            codebook is learnt and finds the scale itself; None where the remainder cannot be quantized again.
    """

    num_embeddings: int
    embedding_dim: int
    num_codebooks: int = 1
    index_dims: int = 0
    estimate: Callable[[Tensor, Tensor], Tensor] = staticmethod(straight_through)
    soft: bool = False
    needs_maps: bool = False
    residual_gain: Tensor | float | None = 1.0
    auto_update: bool = True
    sample_index: Tensor | None = None

    @abstractmethod
    def quantize(self, rows: Tensor) -> QuantizerOutput:
        """Quantize ``rows`` (N, D) that went through :meth:`bound`; indices (N,) or (N, num_codebooks)."""

    @abstractmethod
    def lookup(self, indices: Tensor) -> Tensor:
        """Return the codes (..., D) of ``indices`` (...) or (..., num_codebooks)."""

    def bound(self, rows: Tensor) -> Tensor:
        """Take ``rows`` (N, D) to where the codes live, such as a cube or a sphere."""
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

        Equal to the bit to what ``forward`` returned as ``quantized``, until an update: used alone in training, a
        quantizer has updated itself before ``forward`` returns.

        Raises:
            UserError: If they are no integers, or one lies outside [0, num_embeddings). A graph that torch compiles,
                exports or traces holds no such check.
        """
        indices = as_codes(indices, self._device)
        self.check_codes(indices)
        with without_autocast(indices.device):
            return self.assemble(indices)

    def assemble(self, indices: Tensor) -> Tensor:
        """Return the codes (B, D, *spatial) of ``indices`` (B, *spatial) that were checked."""
        return channels_first(self.lookup(indices))

    def check_codes(self, indices: Tensor) -> None:
        """Raise UserError if one of ``indices`` (...), or (..., num_codebooks), is no code."""
        check_code_range(indices, self.num_embeddings)

    def code_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the indices of one map of this ``size``, without the batch."""
        return tuple(size)

    def codebooks(self) -> dict[str, Tensor]:
        """Return all codes (K, D) under the name ``codebook``; a composite numbers its parts, ``codebook.0`` and so on.

        Raises:
            UserError: If there are more than 2^22 codes.
        """
        if self.num_embeddings > MAX_EXPORT:
            raise UserError(f"{self.num_embeddings} codes are too many for a table: use quantizer.decode(indices)")
        return {"codebook": self.lookup(torch.arange(self.num_embeddings, device=self._device)).detach()}

    def check_residual(self) -> None:
        """Raise UserError if what a code leaves over cannot be quantized again."""
        if self.residual_gain is None:
            raise UserError(
                f"{type(self).__name__} leaves no remainder that it could quantize again: "
                "set --model.quantizer.quantizer.distance=euclidean, or another quantizer"
            )

    @property
    def awaits_first_batch(self) -> bool:
        """Whether :meth:`initialize` still has something to do, here or in a part."""
        return any(module.awaited for module in self.modules() if isinstance(module, DataInit))

    def initialize(self, rows: Tensor) -> None:
        """Set up from the first batch's ``rows`` (N, D), bounded, the same on all ranks, unless done already."""
        return

    def update(self, stats: CodeStats) -> list[Revival]:
        """Take in the statistics of one optimizer step, of all ranks; return the rows that revival overwrote."""
        with torch.no_grad():
            return self.commit(stats.synchronized())

    def commit(self, stats: CodeStats) -> list[Revival]:
        """Take in statistics that are summed over the ranks already."""
        return []

    def extra_repr(self) -> str:
        """Show K and D when the module is printed."""
        return f"num_embeddings={self.num_embeddings}, embedding_dim={self.embedding_dim}"

    @property
    def _device(self) -> torch.device | None:
        """Where the state lies; None without any."""
        return next((state.device for state in chain(self.parameters(), self.buffers())), None)

    def _update_alone(self, out: QuantizerOutput) -> None:
        if out.stats is not None and self.auto_update and not torch.compiler.is_compiling():
            self.update(out.stats)


def to_rows(z: Tensor, embedding_dim: int) -> Tensor:
    """Flatten (B, D, *spatial) to (N, D), N = B * prod(spatial), in float32 at least.

    Raises:
        UserError: If the second dimension is not ``embedding_dim``, or there is no vector.
    """
    if z.ndim < 2 or z.shape[1] != embedding_dim:
        raise UserError(
            f"the quantizer expects (B, {embedding_dim}, ...), got {tuple(z.shape)}: "
            f"set --model.quantizer.embedding_dim, or project the features to {embedding_dim} channels"
        )
    if z.numel() == 0:
        raise UserError(f"the quantizer got an empty batch {tuple(z.shape)}: leave the batch out")
    return channels_last(upcast(z)).reshape(-1, embedding_dim)


def from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """Undo :func:`to_rows`: (N, D) back to the shape and dtype of ``like`` (B, D, *spatial)."""
    return channels_first(rows.reshape(like.shape[0], *like.shape[2:], like.shape[1])).to(like.dtype)


def channels_last(z: Tensor) -> Tensor:
    """(B, D, *spatial) to (B, *spatial, D); the ONNX exporter mistakes a negative axis of ``movedim``."""
    return z.movedim(1, z.ndim - 1)


def channels_first(z: Tensor) -> Tensor:
    """(B, *spatial, D) to (B, D, *spatial)."""
    return z.movedim(z.ndim - 1, 1)
