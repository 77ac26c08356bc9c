"""Vector quantizers as in other libraries, for comparison; each returns (quantized, loss)."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class _GradientCodebook(nn.Module, ABC):
    """A codebook trained by gradient, with a full N x K matrix of distances."""

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_embeddings, embedding_dim)
        nn.init.uniform_(self.embedding.weight, -1 / num_embeddings, 1 / num_embeddings)

    @abstractmethod
    def distances(self, rows: Tensor, codes: Tensor) -> Tensor:
        """Return distances (N, K), squared or not."""

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Quantize ``z`` (B, D, H, W)."""
        z = z.movedim(1, -1).contiguous()
        indices = self.distances(z.view(-1, z.shape[-1]), self.embedding.weight).argmin(1)
        quantized = self.embedding(indices).view(z.shape)
        loss = 0.25 * ((quantized.detach() - z) ** 2).mean() + ((quantized - z.detach()) ** 2).mean()
        quantized = z + (quantized - z).detach()
        return quantized.movedim(-1, 1).contiguous(), loss


class Taming(_GradientCodebook):
    """As in taming-transformers' VectorQuantizer2: |z|^2 + |e|^2 - 2 z e, with gradient."""

    def distances(self, rows: Tensor, codes: Tensor) -> Tensor:
        """Return squared distances (N, K)."""
        squares = rows.square().sum(1, keepdim=True) + codes.square().sum(1)
        return squares - 2 * torch.einsum("nd,dk->nk", rows, codes.T)


class Diffusers(_GradientCodebook):
    """As in diffusers' VectorQuantizer: torch.cdist."""

    def distances(self, rows: Tensor, codes: Tensor) -> Tensor:
        """Return distances (N, K)."""
        return torch.cdist(rows, codes)


class Lucidrains(nn.Module):
    """vector-quantize-pytorch's VectorQuantize with its default settings, in the layout that needs no copy."""

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__()
        from vector_quantize_pytorch import VectorQuantize

        self.quantizer = VectorQuantize(dim=embedding_dim, codebook_size=num_embeddings)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Quantize ``z`` (B, N, D)."""
        quantized, _, loss = self.quantizer(z)
        return quantized, loss.sum()
