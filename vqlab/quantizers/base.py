"""The contract of every quantizer: (B, D, *spatial) in, the same shape and (B, *spatial) integers out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.rebuild import Rebuildable
from vqlab.quantizers.lottery import lowest


@dataclass(frozen=True)
class CodeStats:
    """What one training batch says about the codes; statistics of several batches or ranks can be merged.

    Attributes:
        counts: (K,) float, number of vectors assigned to each code.
        sums: (K, D) sum of the vectors assigned to each code; (K, 0) where the codebook does not need it.
        candidates: (R, D) vectors drawn by lot, for reviving dead codes.
        lots: (R,) float64, the candidates' lots, ascending; infinite where a candidate is missing.
    """

    counts: Tensor
    sums: Tensor
    candidates: Tensor
    lots: Tensor

    def __add__(self, other: "CodeStats") -> "CodeStats":
        """Join the statistics of two batches that share one optimizer step."""
        candidates, lots = lowest(
            torch.cat([self.candidates, other.candidates]), torch.cat([self.lots, other.lots]), len(self.lots)
        )
        return CodeStats(self.counts + other.counts, self.sums + other.sums, candidates, lots)


@dataclass(frozen=True)
class QuantizerOutput:
    """What a quantizer returns.

    Attributes:
        quantized: (B, D, *spatial), the codes that replace the input, differentiable with respect to it.
        indices: (B, *spatial) int64 in [0, num_embeddings).
        loss: Scalar, to be added to the model's loss.
        terms: The parts of ``loss`` by name, detached, for logging.
        stats: Training statistics for :meth:`Quantizer.update`; None in eval mode and where there is no state.
    """

    quantized: Tensor
    indices: Tensor
    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    stats: CodeStats | None = None


class Quantizer(Rebuildable, nn.Module, ABC):
    """Maps vectors to a finite set of codes.

    A subclass sets ``num_embeddings`` (K) and ``embedding_dim`` (D) and writes ``forward`` and ``decode``; one with
    state learnt outside the gradient also writes ``update``. ``forward`` changes no state: what a training batch
    teaches comes back as ``stats``, and ``update(stats)`` takes it in, once per optimizer step. Used alone, a quantizer
    calls ``update`` itself at the end of a training forward; a model that accumulates batches sets
    ``auto_update = False`` and calls it after its optimizer step. A model that knows which samples a batch holds sets
    ``sample_index`` (B,) before a training forward; what is drawn at random then depends on the samples alone, and not
    on how the ranks share them.
    """

    num_embeddings: int
    embedding_dim: int
    auto_update: bool = True
    sample_index: Tensor | None = None

    @abstractmethod
    def forward(self, z: Tensor) -> QuantizerOutput:
        """Quantize ``z`` (B, D, *spatial)."""

    @abstractmethod
    def decode(self, indices: Tensor) -> Tensor:
        """Return the codes (B, D, *spatial) of ``indices`` (B, *spatial)."""

    def encode(self, z: Tensor) -> Tensor:
        """Return the indices (B, *spatial) of ``z`` (B, D, *spatial)."""
        return self.forward(z).indices

    def update(self, stats: CodeStats) -> Tensor | None:
        """Take in the statistics of one optimizer step; return the (K,) mask of revived codes, if any can be."""
        return None

    def extra_repr(self) -> str:
        """Show K and D when the module is printed."""
        return f"num_embeddings={self.num_embeddings}, embedding_dim={self.embedding_dim}"


def to_rows(z: Tensor, embedding_dim: int) -> Tensor:
    """Flatten (B, D, *spatial) to (N, D), N = B * prod(spatial), in float32 at least.

    Raises:
        UserError: If the second dimension is not ``embedding_dim``.
    """
    if z.ndim < 2 or z.shape[1] != embedding_dim:
        raise UserError(
            f"the quantizer expects (B, {embedding_dim}, ...), got {tuple(z.shape)}: "
            f"set --model.quantizer.embedding_dim, or project the features to {embedding_dim} channels"
        )
    if z.dtype in (torch.float16, torch.bfloat16):
        z = z.float()
    return z.movedim(1, -1).reshape(-1, embedding_dim)


def from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """Undo :func:`to_rows`: (N, D) back to the shape and dtype of ``like`` (B, D, *spatial)."""
    return rows.reshape(like.shape[0], *like.shape[2:], like.shape[1]).movedim(-1, 1).to(like.dtype)
