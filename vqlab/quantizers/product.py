"""Product quantization: groups of channels, each with a codebook of its own."""

import torch
from torch import Tensor

from vqlab.quantizers.base import Quantizer, QuantizerOutput
from vqlab.quantizers.composite import Composite
from vqlab.quantizers.vector import VectorQuantizer
from vqlab.validation import Count


class ProductQuantizer(Composite):
    """Cut each vector into G groups of channels and quantize each group on its own: K^G combinations from G K codes.

    Jegou et al. 2011; in image tokenizers "multi-codebook" or "grouped" quantization (UniTok, arXiv:2502.20321). The
    loss is the mean over the groups.

    Args:
        quantizer: Quantizer of the first group, of dimension D / G; the others have the same arguments. Default: a
            ``VectorQuantizer`` of dimension 32.
        num_groups: Groups, G.

    Shape:
        input (B, D, *spatial), D = G x the quantizer's dimension; quantized (B, D, *spatial); indices (B, *spatial, G)
        int64.

    Example:
        >>> quantizer = ProductQuantizer(VectorQuantizer(16, 4), num_groups=3)
        >>> out = quantizer(torch.randn(2, 12, 8, 8))
        >>> tuple(out.indices.shape), tuple(quantizer.decode(out.indices).shape)
        ((2, 8, 8, 3), (2, 12, 8, 8))
    """

    def __init__(self, quantizer: Quantizer | None = None, num_groups: Count = 2) -> None:
        quantizer = quantizer or VectorQuantizer(embedding_dim=32)
        super().__init__(quantizer, num_groups)
        self.embedding_dim = num_groups * quantizer.embedding_dim

    @property
    def residual_gain(self) -> Tensor | float | None:  # type: ignore[override]
        """That of the parts; (D,) if it differs by channel."""
        gain = self.quantizers[0].residual_gain
        return gain.repeat(len(self.parts)) if isinstance(gain, Tensor) else gain

    def bound(self, rows: Tensor) -> Tensor:
        """Map each group of ``rows`` (N, D) to the domain of its codes."""
        return torch.cat([part.bound(group) for part, group in self._groups(rows)], 1)

    def quantize(self, rows: Tensor) -> QuantizerOutput:
        """Quantize ``rows`` (N, D); indices (N, G)."""
        outs = []
        for part, group in self._groups(rows):
            part.sample_index = self.sample_index
            outs.append(part.quantize(group))
        terms = {name: torch.stack([out.terms[name] for out in outs]).mean() for name in outs[0].terms}
        return QuantizerOutput(
            torch.cat([out.quantized for out in outs], 1),
            torch.stack([out.indices for out in outs], 1),
            torch.stack([out.loss for out in outs]).mean(),
            terms,
            self.stack_stats(outs, rows),
        )

    def initialize(self, rows: Tensor) -> None:
        """Initialise each group from its channels."""
        for part, group in self._groups(rows):
            part.initialize(group)

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the codes (..., D) of ``indices`` (..., G)."""
        groups = zip(self.quantizers, indices.unbind(-self.index_dims), strict=True)
        return torch.cat([part.lookup(index) for part, index in groups], -1)

    def _groups(self, rows: Tensor) -> list[tuple[Quantizer, Tensor]]:
        return list(zip(self.quantizers, rows.chunk(len(self.parts), 1), strict=True))
