"""The contract of every quantizer: (B, D, *spatial) in, the same shape and (B, *spatial) integers out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.codes import as_codes, check_code_range
from vqlab.nn.distributed import all_gather_rows, all_sum, world_size
from vqlab.nn.precision import KeepsFloat32, upcast, without_autocast
from vqlab.quantizers.sampling import smallest_k
from vqlab.quantizers.search import finite_rows
from vqlab.serialization import ConfigMixin
from vqlab.validation import Count

MAX_EXPORT = 2**22  # largest number of codes in an exported table


def straight_through(z: Tensor, q: Tensor) -> Tensor:
    """Return ``q`` (N, D) with dq/dz = identity (Bengio et al. 2013, arXiv:1308.3432)."""
    return q + (z - z.detach())  # adds an exact zero, so the value is bit-equal to q


def rotation_trick(z: Tensor, q: Tensor, eps: float = 1e-6) -> Tensor:
    """Return ``q`` (N, D) with dq/dz = (|q|/|z|) R, where R is the rotation from z/|z| to q/|q|, held constant.

    Fifty et al. 2024, arXiv:2410.06424, equation 4: R = I - 2 r r^T + 2 q^ z^T with z^ = z/|z|, q^ = q/|q| and
    r = (z^ + q^) / |z^ + q^|. Where R does not exist (z = 0, q = 0 or q^ = -z^) the gradient is straight-through.
    """
    with torch.no_grad():
        z_norm, q_norm = z.norm(dim=1, keepdim=True), q.norm(dim=1, keepdim=True)
        z_unit, q_unit = F.normalize(z, dim=1), F.normalize(q, dim=1)
        r = z_unit + q_unit
        exists = (z_norm > eps) & (q_norm > eps) & (r.norm(dim=1, keepdim=True) > eps)
        r = F.normalize(r, dim=1)
        scale = q_norm / z_norm.clamp_min(eps)
    rotated = scale * (z - 2 * r * (r * z).sum(1, keepdim=True) + 2 * q_unit * (z_unit * z).sum(1, keepdim=True))
    return straight_through(torch.where(exists, rotated, z), q)


ESTIMATORS = {"ste": straight_through, "rotation": rotation_trick}


def vq_loss(z: Tensor, codes: Tensor, weight: float, trained: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    """Return weight * mean |z - sg(e)|^2, plus mean |sg(z) - e|^2 if the codes are ``trained``, and the terms.

    van den Oord et al. 2017, equation 3; ``z`` and ``codes`` are (N, D). Some published code puts the weight on the
    other term. A row of ``z`` that is not finite makes the loss NaN, but not the gradient of ``codes``.
    """
    commitment = F.mse_loss(z, codes.detach())
    loss, terms = weight * commitment, {"commitment_loss": commitment.detach()}
    if trained:
        codebook = F.mse_loss(codes, torch.where(finite_rows(z), z, codes).detach())
        loss, terms["codebook_loss"] = loss + codebook, codebook.detach()
    return loss, terms


@dataclass(frozen=True)
class CodeStats:
    """Statistics of one codebook, or of several equal codebooks stacked in leading dimensions (...)."""

    counts: Tensor  # (..., K) float, number of vectors assigned to each code
    sums: Tensor  # (..., K, D), sum of the vectors assigned to each code; (..., K, 0) if the codebook needs none
    candidates: Tensor  # (..., R, D), randomly chosen vectors, to replace dead codes
    keys: Tensor  # (..., R) float64, random keys of the candidates, ascending; infinite where a candidate is missing

    @classmethod
    def empty(cls, like: Tensor) -> "CodeStats":
        """Return the statistics of a quantizer that only counts its steps."""
        counts, rows = like.new_zeros(0), like.new_zeros(0, 0)
        return cls(counts, rows, rows, counts.double())

    @classmethod
    def stack(cls, parts: "Sequence[CodeStats]") -> "CodeStats":
        """Stack the statistics of equal codebooks in a new first dimension."""
        names = ("counts", "sums", "candidates", "keys")
        return cls(*[torch.stack([getattr(part, name) for part in parts]) for name in names])

    def unbind(self) -> "list[CodeStats]":
        """Undo :meth:`stack`."""
        return [CodeStats(*part) for part in zip(self.counts, self.sums, self.candidates, self.keys, strict=True)]

    def __add__(self, other: "CodeStats") -> "CodeStats":
        """Add the statistics of another batch of the same optimizer step."""
        candidates, keys = torch.cat([self.candidates, other.candidates], -2), torch.cat([self.keys, other.keys], -1)
        chosen = smallest_k(candidates, keys, self.keys.shape[-1])
        return CodeStats(self.counts + other.counts, self.sums + other.sums, *chosen)

    def synchronized(self) -> "CodeStats":
        """Return the statistics over all ranks, by one packed sum and one gather of the candidates and their keys."""
        if world_size() == 1 or self.counts.numel() == 0:
            return self
        packed = all_sum(torch.cat([self.sums, self.counts[..., None]], -1))
        candidates, keys = self.candidates, self.keys
        if keys.numel():  # else no code is ever revived, on any rank
            candidates = all_gather_rows(candidates.movedim(-2, 0)).movedim(0, -2)  # (..., world * R, D)
            keys = all_gather_rows(keys.movedim(-1, 0)).movedim(0, -1)
            candidates, keys = smallest_k(candidates, keys, self.keys.shape[-1])
        return CodeStats(packed[..., -1], packed[..., :-1], candidates, keys)


@dataclass(frozen=True)
class QuantizerOutput:
    """Codes, indices and loss of a batch.

    ``indices`` are in [0, num_embeddings); with several codebooks they are (B, *spatial, num_codebooks).
    """

    quantized: Tensor  # (B, D, *spatial), the codes that replace the input, differentiable with respect to it
    indices: Tensor  # (B, *spatial) int64
    loss: Tensor  # scalar, to be added to the model's loss
    terms: dict[str, Tensor] = field(default_factory=dict)  # parts of the loss by name, detached, for logging
    stats: CodeStats | None = None  # for Quantizer.update; None in eval mode and where there is no state


# A codebook (K, D) and whether revival replaced each row, (K,) bool: an optimizer must reset the moments of these rows.
Revival = tuple[Tensor, Tensor]


class Quantizer(ConfigMixin, KeepsFloat32, ABC):
    """Map vectors to a finite set of codes.

    A subclass sets ``num_embeddings`` (K) and ``embedding_dim`` (D) and implements ``quantize`` and, unless it has a
    tensor ``codebook`` (K, D), ``lookup``, both on rows (N, D); if it has state that no gradient updates, also
    ``commit``. A training forward returns ``stats``, which ``update(stats)`` applies once per optimizer step; forward
    does so itself unless ``auto_update`` is False. If ``sample_index`` (B,) is set, random numbers depend on it and not
    on the batch. All computations are in float32 or higher, also under autocast and in a module cast to half precision.
    """

    num_embeddings: int
    embedding_dim: int
    codebook: Tensor  # (K, D), where there is such a tensor
    num_codebooks: int = 1  # indices per position; a composite has several, in the last index_dims axes of indices
    index_dims: int = 0
    estimate: Callable[[Tensor, Tensor], Tensor] = staticmethod(straight_through)  # gradient estimator
    soft: bool = False  # whether quantized is differentiable without an estimator, through probabilities
    # Ratio of the input's range to that of the residual, (D,) or scalar: 1 if the codebook is learned and adapts its
    # scale, None if the residual cannot be quantized again.
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

    def encode(self, z: Tensor) -> Tensor:
        """Return the indices (B, *spatial) of ``z`` (B, D, *spatial)."""
        return self.forward(z).indices

    def decode(self, indices: Tensor) -> Tensor:
        """Return the codes (B, D, *spatial) of ``indices`` (B, *spatial), bit-equal to ``forward``.

        Raises UserError if ``indices`` are not integers in [0, num_embeddings); graphs do not check the range.
        """
        indices = as_codes(indices, self._device)
        self.check_codes(indices)
        with without_autocast(indices.device):
            return self.assemble(indices)

    def assemble(self, indices: Tensor) -> Tensor:
        """Return the codes (B, D, *spatial) of checked ``indices`` (B, *spatial)."""
        return channels_first(self.lookup(indices))

    def check_codes(self, indices: Tensor) -> None:
        """Raise UserError if one of ``indices`` (...) or (..., num_codebooks) is outside the codebook."""
        check_code_range(indices, self.num_embeddings)

    def code_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the indices of one map of ``size``, without the batch dimension."""
        return tuple(size)

    def codebooks(self) -> dict[str, Tensor]:
        """Return all codes (K, D) as ``codebook``; a composite numbers its parts: ``codebook.0``, ``codebook.1``..."""
        if self.num_embeddings > MAX_EXPORT:
            raise UserError(f"{self.num_embeddings} codes are too many for a table: use quantizer.decode(indices)")
        return {"codebook": self.lookup(torch.arange(self.num_embeddings, device=self._device)).detach()}

    def check_part(self, residual: bool = False) -> None:
        """Raise UserError if this quantizer cannot be part of a composite, or of one that quantizes residuals."""
        if residual and self.residual_gain is None:
            rule = f"quantizer must leave a residual to quantize again, which {type(self).__name__} does not"
            raise UserError(f"{rule}: set distance=euclidean, or choose another quantizer")

    @property
    def awaits_first_batch(self) -> bool:
        """Whether this quantizer or a part of it waits for the batch that initializes its codebook."""
        return any(module.awaited for module in self.modules() if isinstance(module, DataInit))

    def initialize(self, rows: Tensor, batches: int = 1) -> None:
        """Initialize from the bounded ``rows`` (N, D) of the first batches, equally on all ranks, if not done yet."""

    def update(self, stats: CodeStats) -> list[Revival]:
        """Apply the statistics of one optimizer step, summed over all ranks; return the rows that revival replaced."""
        with torch.no_grad():
            return self.commit(stats.synchronized())

    def commit(self, stats: CodeStats) -> list[Revival]:
        """Apply statistics that are summed over all ranks."""
        return []

    def extra_repr(self) -> str:
        return f"num_embeddings={self.num_embeddings}, embedding_dim={self.embedding_dim}"

    @property
    def _device(self) -> torch.device | None:
        return next((state.device for state in [*self.parameters(), *self.buffers()]), None)

    def _update_alone(self, out: QuantizerOutput) -> None:
        if out.stats is not None and self.auto_update and not torch.compiler.is_compiling():
            self.update(out.stats)


class IdentityQuantizer(Quantizer):
    """Return the features unchanged, with index 0: the baseline of a continuous autoencoder.

    Args:
        embedding_dim: Channels of the features, D.

    Example:
        >>> IdentityQuantizer(1)(torch.tensor([[0.5]])).quantized.item()
        0.5
    """

    num_embeddings = 1
    soft = True
    residual_gain = None

    def __init__(self, embedding_dim: Count = 64) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim

    def quantize(self, rows: Tensor) -> QuantizerOutput:
        return QuantizerOutput(rows, rows.new_zeros(len(rows)).long(), rows.new_zeros(()))

    def lookup(self, indices: Tensor) -> Tensor:
        raise UserError("an IdentityQuantizer has no codes to decode: set quantizer=VectorQuantizer")


class DataInit(nn.Module):
    """A flag that checkpoints keep, with a copy in Python, because reading a buffer synchronizes with the GPU."""

    seen: Tensor

    def __init__(self, awaited: bool = True) -> None:
        super().__init__()
        self.register_buffer("seen", torch.tensor(not awaited))
        self.awaited = awaited

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.awaited = not bool(self.seen)

    def done(self) -> None:
        self.seen.fill_(True)
        self.awaited = False


def to_rows(z: Tensor, embedding_dim: int) -> Tensor:
    """Flatten ``z`` (B, D, *spatial) to (B * prod(spatial), D) in float32 or higher; raise UserError if D differs."""
    shape = tuple(z.shape)
    if z.ndim < 2 or z.shape[1] != embedding_dim:
        raise UserError(f"embedding_dim must be dimension 1 of the input, got {embedding_dim} and an input {shape}")
    if z.numel() == 0:
        raise UserError(f"the quantizer's input must not be empty, got {shape}")
    return upcast(z).movedim(1, z.ndim - 1).reshape(-1, embedding_dim)


def from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """Reshape (N, D) to the shape and dtype of ``like`` (B, D, *spatial), the inverse of :func:`to_rows`."""
    return channels_first(rows.reshape(like.shape[0], *like.shape[2:], like.shape[1])).to(like.dtype)


def channels_first(z: Tensor) -> Tensor:
    """Move the last axis to position 1: (B, *spatial, D) to (B, D, *spatial)."""
    return z.movedim(z.ndim - 1, 1)  # the ONNX exporter misinterprets a negative axis
