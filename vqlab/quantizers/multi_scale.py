"""Multi-scale residual quantization: a pyramid of maps, coarse to fine (VAR, Tian et al. 2024, arXiv:2404.02905)."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.precision import without_autocast
from vqlab.quantizers.base import CodeStats, Quantizer, QuantizerOutput, Revival, channels_first, from_rows, to_rows
from vqlab.quantizers.vector import VectorQuantizer
from vqlab.validation import Count

CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
UPSAMPLING = {1: "linear", 2: "bicubic", 3: "trilinear"}
SCALE_SHIFT = 40  # sample_index + (scale << 40) gives each scale different random numbers


class MultiScaleQuantizer(Quantizer):
    """Represent a map by maps of 1x1, 2x2, ... codes of one codebook, each the residual of the coarser maps.

    VAR, algorithms 1 and 2: f^ = 0; for each scale s_k: r_k = Q(area-downsample(f - f^, s_k)),
    f^ <- f^ + phi_k(upsample(r_k, s_K)), phi(h) = h / 2 + conv(h) / 2. loss = mean over scales of the quantizer's
    loss plus |f^_k - sg(f)|^2. The codebook is initialized from the Laplacian pyramid of the first batch.

    Args:
        quantizer: The quantizer of all scales. Default: a ``VectorQuantizer``.
        scales: Edge length of the map at each scale, ascending; the last is that of the input.
        num_phi: Number of different convolutions, spread evenly over the scales.
        spatial_dims: Number of spatial dimensions of the input.

    Shape:
        input and quantized (B, D, s_K, ...) with ``spatial_dims`` equal edges; indices (B, L) int64,
        L = sum_k s_k ^ spatial_dims, followed by the axes of a composite quantizer.

    Example:
        >>> tuple(MultiScaleQuantizer(VectorQuantizer(16, 4), scales=[1, 2, 4]).encode(torch.randn(2, 4, 4, 4)).shape)
        (2, 21)
    """

    def __init__(
        self,
        quantizer: Quantizer | None = None,
        scales: list[Count] | tuple[Count, ...] = (1, 2, 3, 4, 6, 8),
        num_phi: Count = 4,
        spatial_dims: Literal[1, 2, 3] = 2,
    ) -> None:
        super().__init__()
        if not scales or any(a >= b for a, b in itertools.pairwise(scales)):
            raise UserError(f"scales must ascend, got {list(scales)}")
        self.quantizer = quantizer or VectorQuantizer()
        self.quantizer.check_part(residual=True)
        self.quantizer.auto_update = False
        self.num_embeddings, self.embedding_dim = self.quantizer.num_embeddings, self.quantizer.embedding_dim
        self.num_codebooks, self.index_dims = self.quantizer.num_codebooks, self.quantizer.index_dims
        self.soft, self.estimate = self.quantizer.soft, self.quantizer.estimate
        self.scales, self.spatial_dims = list(scales), spatial_dims
        conv, dim = CONVOLUTIONS[spatial_dims], self.embedding_dim
        self.phi = nn.ModuleList([conv(dim, dim, 3, padding=1) for _ in range(min(num_phi, len(scales)))])

    def forward(self, z: Tensor) -> QuantizerOutput:
        self.check_map(z.shape[2:])
        with without_autocast(z.device):
            rows = self.quantizer.bound(to_rows(z, self.embedding_dim))
            out = self._pyramid(from_rows(rows, z.to(rows.dtype)), rows)
            self._update_alone(out)
        return replace(out, quantized=out.quantized.to(z.dtype))

    def check_map(self, size: Sequence[int]) -> None:
        if tuple(size) != (self.scales[-1],) * self.spatial_dims:
            rule = f"scales must end with the edge of the map, in {self.spatial_dims} spatial_dims"
            raise UserError(f"{rule}: got {self.scales} and a map {tuple(size)}")

    def check_part(self, residual: bool = False) -> None:
        raise UserError("quantizer must quantize single vectors, which MultiScaleQuantizer does not")

    def quantize(self, rows: Tensor) -> QuantizerOutput:
        raise NotImplementedError("MultiScaleQuantizer quantizes maps, not single vectors")

    def lookup(self, indices: Tensor) -> Tensor:
        return self.quantizer.lookup(indices)

    def check_codes(self, indices: Tensor) -> None:
        self.quantizer.check_codes(indices)

    def code_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        return (sum(edge**self.spatial_dims for edge in self.scales), *self.quantizer.code_shape(()))

    def assemble(self, indices: Tensor) -> Tensor:
        """Return the map (B, D, s_K, ...) of ``indices`` (B, L), or of those of the coarse scales alone."""
        lengths = [edge**self.spatial_dims for edge in self.scales]
        whole = sum(lengths)
        while sum(lengths) > indices.shape[1]:
            lengths.pop()
        if not lengths or sum(lengths) != indices.shape[1]:
            raise UserError(f"indices must fill the scales {self.scales}, {whole} in all, got {indices.shape[1]}")
        f_hat: Tensor | float = 0.0
        for scale, index in enumerate(indices.split(lengths, 1)):
            f_hat = self.add_scale(f_hat, index, scale)
        return torch.as_tensor(f_hat)

    def add_scale(self, f_hat: Tensor | float, indices: Tensor, scale: int) -> Tensor:
        """Return f^ (B, D, s_K, ...) with the refined codes of ``indices`` (B, s_k ^ spatial_dims) of one scale."""
        codes = channels_first(self.lookup(indices)).unflatten(2, (self.scales[scale],) * self.spatial_dims)
        return f_hat + self._refine(codes, scale)

    def downsample(self, f: Tensor, scale: int) -> Tensor:
        """Return the map ``f`` (B, D, s_K, ...) at the size of a scale, (B, D, s_k, ...)."""
        return F.interpolate(f, size=(self.scales[scale],) * self.spatial_dims, mode="area")

    def codebooks(self) -> dict[str, Tensor]:
        """Return the shared codebook and the convolutions, ``phi.<number>.weight`` and ``.bias``."""
        return self.quantizer.codebooks() | {f"phi.{name}": value for name, value in self.phi.state_dict().items()}

    def commit(self, stats: CodeStats) -> list[Revival]:
        return self.quantizer.commit(stats)

    def _pyramid(self, f: Tensor, rows: Tensor) -> QuantizerOutput:
        """Quantize the bounded map ``f`` (B, D, s_K, ...), whose vectors are ``rows`` (N, D)."""
        if self.training and self.quantizer.awaits_first_batch:
            rest, bands = f.detach(), []
            for scale in range(len(self.scales)):  # without quantization error at the coarser scales
                band = self.downsample(rest, scale)
                bands.append(to_rows(band, self.embedding_dim))
                rest = rest - self._upsample(band)
            self.quantizer.initialize(torch.cat(bands))
        f_hat, indices, losses, terms, stats = torch.zeros_like(f), [], [], [], None
        for scale in range(len(self.scales)):
            rest = self.downsample(f - (f_hat if self.soft else f_hat.detach()), scale)
            index = self.sample_index
            self.quantizer.sample_index = None if index is None else index + (scale << SCALE_SHIFT)
            out = self.quantizer.quantize(to_rows(rest, self.embedding_dim))
            # Without NaN, which the convolution would spread; the loss of the quantizer is NaN.
            codes = out.quantized.nan_to_num() if self.soft else self.quantizer.lookup(out.indices)
            f_hat = f_hat + self._refine(from_rows(codes, rest), scale)
            refinement = F.mse_loss(f_hat, torch.where(f.isfinite(), f, f_hat).detach())
            losses.append(out.loss + refinement)
            terms.append(out.terms | {"refinement_loss": refinement.detach()})
            indices.append(out.indices.reshape(f.shape[0], -1, *out.indices.shape[1:]))
            stats = out.stats if stats is None or out.stats is None else stats + out.stats
        if not self.soft:
            f_hat = from_rows(self.estimate(rows, to_rows(f_hat.detach(), self.embedding_dim)), f)
        means = {name: torch.stack([term[name] for term in terms]).mean() for name in terms[0]}
        return QuantizerOutput(f_hat, torch.cat(indices, 1), torch.stack(losses).mean(), means, stats)

    def _upsample(self, codes: Tensor) -> Tensor:
        size = (self.scales[-1],) * self.spatial_dims
        return codes if codes.shape[2:] == size else F.interpolate(codes, size=size, mode=UPSAMPLING[self.spatial_dims])

    def _refine(self, codes: Tensor, scale: int) -> Tensor:
        """Upsample codes (B, D, s_k, ...) to full size and apply phi_k."""
        codes = codes.to(next(self.phi.parameters()).dtype)
        h = self._upsample(codes).contiguous()  # one memory layout makes decoding bit-equal
        position = scale / max(1, len(self.scales) - 1)  # 0 at the coarsest scale, 1 at the finest
        return h / 2 + self.phi[round(position * (len(self.phi) - 1))](h) / 2
