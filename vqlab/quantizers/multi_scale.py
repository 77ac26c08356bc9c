"""Multi-scale residual quantization: a pyramid of maps, coarse to fine (VAR, Tian et al. 2024, arXiv:2404.02905)."""

import itertools
from collections.abc import Iterator, Sequence
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
SCALE_SHIFT = 40  # other scales count as other samples: no data set has 2^40
REFINEMENT = 0.5  # weight of the convolution in a refined map, the published value


class MultiScaleQuantizer(Quantizer):
    """Represent a map by maps of 1x1, 2x2, ... codes, each of the residual of the coarser ones, with one codebook.

    VAR, algorithms 1 and 2: f^ = 0; for each scale s_k: r_k = Q(area-downsample(f - f^, s_k)),
    f^ <- f^ + phi_k(upsample(r_k, s_K)), phi(h) = h / 2 + conv(h) / 2. loss = mean over scales of the quantizer's own
    loss and of |f^_k - sg(f)|^2, which trains phi. A codebook is initialised from the bands of a Laplacian pyramid of
    the first batch, that is, from the residuals of perfect coarser codes.

    Args:
        quantizer: The quantizer of all scales. Default: a ``VectorQuantizer``.
        scales: Edge length of the map at each scale, ascending; the last must be that of the input.
        num_phi: Different phi convolutions, spread evenly over the scales (almost as in the published code).
        spatial_dims: Spatial dimensions of the input: 1, 2 or 3.

    Shape:
        input (B, D, s_K, ...) with ``spatial_dims`` equal edges; quantized as the input; indices (B, L) int64,
        L = sum_k s_k ^ spatial_dims, followed by the axes of a composite quantizer.

    Example:
        >>> quantizer = MultiScaleQuantizer(VectorQuantizer(16, 4), scales=[1, 2, 4])
        >>> out = quantizer(torch.randn(2, 4, 4, 4))
        >>> tuple(out.indices.shape), tuple(quantizer.decode(out.indices).shape)
        ((2, 21), (2, 4, 4, 4))
    """

    needs_maps = True

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
            raise UserError(
                f"scales must end with the edge of the map, in {self.spatial_dims} spatial_dims: got {self.scales} and "
                f"a map {tuple(size)}"
            )

    def quantize(self, rows: Tensor) -> QuantizerOutput:
        raise NotImplementedError("MultiScaleQuantizer quantizes maps, not single vectors")

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the codes (B, L, D) of ``indices`` (B, L), before they are added up."""
        return self.quantizer.lookup(indices)

    def check_codes(self, indices: Tensor) -> None:
        self.quantizer.check_codes(indices)

    def code_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        return (sum(edge**self.spatial_dims for edge in self.scales), *self.quantizer.code_shape(()))

    def assemble(self, indices: Tensor) -> Tensor:
        """Return the map (B, D, s_K, ...) of ``indices`` (B, L), or of the coarse scales alone."""
        lengths = [edge**self.spatial_dims for edge in self.scales]
        while sum(lengths) > indices.shape[1]:
            lengths.pop()
        if not lengths or sum(lengths) != indices.shape[1]:
            whole = self.code_shape(())[0]
            raise UserError(f"indices must fill the scales {self.scales}, {whole} in all, got {indices.shape[1]}")
        f_hat: Tensor | float = 0.0
        for scale, index in enumerate(indices.split(lengths, 1)):
            codes = channels_first(self.lookup(index)).unflatten(2, (self.scales[scale],) * self.spatial_dims)
            f_hat = f_hat + self._refine(codes, scale)
        return torch.as_tensor(f_hat)

    def codebooks(self) -> dict[str, Tensor]:
        """Return the shared codebook and the convolutions, ``phi.<number>.weight`` and ``.bias``."""
        return self.quantizer.codebooks() | {f"phi.{name}": value for name, value in self.phi.state_dict().items()}

    def commit(self, stats: CodeStats) -> list[Revival]:
        return self.quantizer.commit(stats)

    def _pyramid(self, f: Tensor, rows: Tensor) -> QuantizerOutput:
        """Quantize the bounded map ``f`` (B, D, s_K, ...), ``rows`` (N, D) being its vectors."""
        if self.training and self.quantizer.awaits_first_batch:
            bands = torch.cat([to_rows(band, self.embedding_dim) for band in self._bands(f.detach())])
            self.quantizer.initialize(bands)
        f_hat, indices, losses, terms, stats = torch.zeros_like(f), [], [], [], None
        for scale in range(len(self.scales)):
            rest = self._downsample(f - (f_hat if self.soft else f_hat.detach()), scale)
            index = self.sample_index  # other random numbers at every scale
            self.quantizer.sample_index = None if index is None else index + (scale << SCALE_SHIFT)
            out = self.quantizer.quantize(to_rows(rest, self.embedding_dim))
            # Without NaN, which a convolution would spread; the quantizer's own loss is NaN.
            codes = out.quantized.nan_to_num() if self.soft else self.quantizer.lookup(out.indices)
            f_hat = f_hat + self._refine(from_rows(codes, rest), scale)
            refinement = F.mse_loss(f_hat, torch.where(f.isfinite(), f, f_hat).detach())
            losses.append(out.loss + refinement)
            terms.append(out.terms | {"refinement_loss": refinement.detach()})
            indices.append(out.indices.reshape(f.shape[0], -1, *out.indices.shape[1:]))
            if out.stats is not None:
                stats = out.stats if stats is None else stats + out.stats
        quantized = f_hat
        if not self.soft:
            quantized = from_rows(self.estimate(rows, to_rows(f_hat.detach(), self.embedding_dim)), f)
        means = {name: torch.stack([term[name] for term in terms]).mean() for name in terms[0]}
        return QuantizerOutput(quantized, torch.cat(indices, 1), torch.stack(losses).mean(), means, stats)

    def _bands(self, f: Tensor) -> Iterator[Tensor]:
        """Yield the residual at each scale if the codes of the coarser scales were perfect."""
        for scale in range(len(self.scales)):
            band = self._downsample(f, scale)
            yield band
            f = f - self._upsample(band)

    def _downsample(self, f: Tensor, scale: int) -> Tensor:
        return F.interpolate(f, size=(self.scales[scale],) * self.spatial_dims, mode="area")

    def _upsample(self, codes: Tensor) -> Tensor:
        size = (self.scales[-1],) * self.spatial_dims
        return codes if codes.shape[2:] == size else F.interpolate(codes, size=size, mode=UPSAMPLING[self.spatial_dims])

    def _refine(self, codes: Tensor, scale: int) -> Tensor:
        """Upsample codes (B, D, s_k, ...) to full size and apply phi_k."""
        codes = codes.to(next(self.phi.parameters()).dtype)
        h = self._upsample(codes).contiguous()  # in one memory layout, so that decoding is bit-equal
        position = scale / max(1, len(self.scales) - 1)  # 0 at the coarsest scale, 1 at the finest
        phi = self.phi[round(position * (len(self.phi) - 1))]
        return (1 - REFINEMENT) * h + REFINEMENT * phi(h)
