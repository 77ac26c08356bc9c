"""Multi-scale residual quantization: a pyramid of maps, coarse to fine (VAR, Tian et al. 2024, arXiv:2404.02905)."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.precision import without_autocast
from vqlab.quantizers.base import Quantizer, QuantizerOutput, Revival, channels_first, from_rows, to_rows
from vqlab.quantizers.stats import CodeStats
from vqlab.quantizers.vector import VectorQuantizer
from vqlab.validation import check_choice, check_sizes

CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
UPSAMPLING = {1: "linear", 2: "bicubic", 3: "trilinear"}
SCALE_SHIFT = 40  # samples of other scales count as others: no data set has as many
REFINEMENT = 0.5  # share of the convolution in a refined map, the published value


class MultiScaleQuantizer(Quantizer):
    """Code a map by maps of 1x1, 2x2, ... codes, each of what the coarser ones left over; all share one codebook.

    VAR, algorithms 1 and 2: f^ = 0; for each scale s_k: r_k = Q(area-downsample(f - f^, s_k)),
    f^ <- f^ + phi_k(upsample(r_k, s_K)), phi(h) = h / 2 + conv(h) / 2. loss = mean over scales of the quantizer's own
    loss and of |f^_k - sg(f)|^2, which teaches phi. The codes of one image are one sequence, coarse to fine, as the
    next-scale prior wants it. A codebook that is set up from data sees the bands of a Laplacian pyramid of the first
    batch, that is, the remainders that perfect coarser codes would leave.

    Args:
        quantizer: The quantizer of all scales; null is a ``VectorQuantizer``.
        scales: Edge length of the map at each scale, ascending; the last must be that of the input.
        num_phi: Different phi convolutions, spread evenly over the scales (the published code spreads them nearly so).
        spatial_dims: Spatial dimensions of the input: 1, 2 or 3.

    Shape:
        input (B, D, s_K, ...) with ``spatial_dims`` equal edges; quantized as the input; indices (B, L) int64,
        L = sum_k s_k ^ spatial_dims, behind which a composite quantizer has its own axes.

    Raises:
        UserError: If the scales do not ascend, the input has another size, or the quantizer leaves no remainder.

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
        scales: list[int] | tuple[int, ...] = (1, 2, 3, 4, 6, 8),
        num_phi: int = 4,
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        check_sizes(num_phi=num_phi)
        check_choice("spatial_dims", spatial_dims, tuple(CONVOLUTIONS))
        if not scales or scales[0] < 1 or any(a >= b for a, b in itertools.pairwise(scales)):
            raise UserError(
                f"scales must ascend from at least 1, got {list(scales)}: set --model.quantizer.scales=[1,2,4,8]"
            )
        self.quantizer = quantizer or VectorQuantizer()
        self.quantizer.check_residual()
        if self.quantizer.needs_maps:
            raise UserError(f"{type(self.quantizer).__name__} cannot be wrapped: choose a quantizer of vectors")
        self.quantizer.auto_update = False
        self.num_embeddings, self.embedding_dim = self.quantizer.num_embeddings, self.quantizer.embedding_dim
        self.num_codebooks, self.index_dims = self.quantizer.num_codebooks, self.quantizer.index_dims
        self.soft, self.estimate = self.quantizer.soft, self.quantizer.estimate
        self.scales, self.spatial_dims = list(scales), spatial_dims
        conv, dim = CONVOLUTIONS[spatial_dims], self.embedding_dim
        self.phi = nn.ModuleList([conv(dim, dim, 3, padding=1) for _ in range(min(num_phi, len(scales)))])

    def forward(self, z: Tensor) -> QuantizerOutput:
        """Quantize ``z`` (B, D, s_K, ...)."""
        self.check_map(z.shape[2:])
        with without_autocast(z.device):
            rows = self.quantizer.bound(to_rows(z, self.embedding_dim))
            out = self._pyramid(from_rows(rows, z.to(rows.dtype)), rows)
            self._update_alone(out)
        return replace(out, quantized=out.quantized.to(z.dtype))

    def check_map(self, size: Sequence[int]) -> None:
        """Raise UserError if the maps are not as large as the last scale."""
        if tuple(size) != (self.scales[-1],) * self.spatial_dims:
            raise UserError(
                f"the last of scales {self.scales} must be every edge of a map of {self.spatial_dims} dimensions, and "
                f"the map is {tuple(size)}: set --model.quantizer.scales and spatial_dims to fit"
            )

    def quantize(self, rows: Tensor) -> QuantizerOutput:
        """Refuse: a pyramid needs maps."""
        raise UserError("MultiScaleQuantizer quantizes maps, not single vectors: put it outside other quantizers")

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the codes (B, L, D) of ``indices`` (B, L), before they are added up."""
        return self.quantizer.lookup(indices)

    def check_codes(self, indices: Tensor) -> None:
        """Raise UserError if one of ``indices`` (B, L) is no code."""
        self.quantizer.check_codes(indices)

    def code_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return (L,), with the axes of a composite."""
        return (sum(edge**self.spatial_dims for edge in self.scales), *self.quantizer.code_shape(()))

    def assemble(self, indices: Tensor) -> Tensor:
        """Return the map (B, D, s_K, ...) of ``indices`` (B, L), or of the coarse scales alone."""
        lengths = [edge**self.spatial_dims for edge in self.scales]
        while sum(lengths) > indices.shape[1]:
            lengths.pop()
        if not lengths or sum(lengths) != indices.shape[1]:
            whole = self.code_shape(())[0]
            raise UserError(f"{indices.shape[1]} indices do not fill the scales {self.scales}: decode takes {whole}")
        f_hat: Tensor | float = 0.0
        for scale, index in enumerate(indices.split(lengths, 1)):
            codes = channels_first(self.lookup(index)).unflatten(2, (self.scales[scale],) * self.spatial_dims)
            f_hat = f_hat + self._refine(codes, scale)
        return torch.as_tensor(f_hat)

    def codebooks(self) -> dict[str, Tensor]:
        """Return the shared codebook and the convolutions, ``phi.<number>.weight`` and ``.bias``."""
        return self.quantizer.codebooks() | {f"phi.{name}": value for name, value in self.phi.state_dict().items()}

    def commit(self, stats: CodeStats) -> list[Revival]:
        """Hand the quantizer the statistics of all scales."""
        return self.quantizer.commit(stats)

    def _pyramid(self, f: Tensor, rows: Tensor) -> QuantizerOutput:
        """Quantize the bounded map ``f`` (B, D, s_K, ...), ``rows`` (N, D) being its vectors."""
        if self.training and self.quantizer.awaits_first_batch:
            bands = torch.cat([to_rows(band, self.embedding_dim) for band in self._bands(f.detach())])
            self.quantizer.initialize(bands)
        f_hat, indices, losses, terms, stats = torch.zeros_like(f), [], [], [], None
        for scale in range(len(self.scales)):
            rest = self._downsample(f - (f_hat if self.soft else f_hat.detach()), scale)
            index = self.sample_index  # a position draws other lots at every scale
            self.quantizer.sample_index = None if index is None else index + (scale << SCALE_SHIFT)
            out = self.quantizer.quantize(to_rows(rest, self.embedding_dim))
            # Without NaN, which a convolution would spread; the quantizer's own loss shows it.
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
        return QuantizerOutput(
            quantized,
            torch.cat(indices, 1),
            torch.stack(losses).mean(),
            {name: torch.stack([term[name] for term in terms]).mean() for name in terms[0]},
            stats,
        )

    def _bands(self, f: Tensor) -> Iterator[Tensor]:
        """Yield what each scale would have to code if the coarser scales' codes were perfect."""
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
        """Bring codes (B, D, s_k, ...) to full size and smooth them."""
        codes = codes.to(next(self.phi.parameters()).dtype)
        h = self._upsample(codes).contiguous()  # in one layout, so that decoding repeats every bit
        share = scale / max(1, len(self.scales) - 1)  # 0 at the coarsest scale, 1 at the finest
        phi = self.phi[round(share * (len(self.phi) - 1))]
        return (1 - REFINEMENT) * h + REFINEMENT * phi(h)
