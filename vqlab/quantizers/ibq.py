"""Index backpropagation quantization: every code gets a gradient (Shi et al. 2024, arXiv:2412.02692)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.nn.distributed import mean_over_ranks
from vqlab.quantizers.base import Quantizer, QuantizerOutput
from vqlab.quantizers.search import entropy, finite_rows, in_chunks
from vqlab.validation import Count, NonNegative, Positive


class IBQ(Quantizer):
    """Take the code of the largest inner product, with the gradient of the softmax over all codes.

    p = softmax(z C^T); quantized q = c_argmax, whose gradient is that of sum_k p_k c_k (section 3.2). loss =
    mean |q - z|^2 + mean |sg(c) - z|^2 + commitment_weight * mean |c - sg(z)|^2, where q differentiates through p and c
    does not, + entropy_weight * (E[H(p_T)] - H(E[p_T])), p_T at ``temperature``, expectations over the global batch.

    Args:
        num_embeddings: Number of codes, K.
        embedding_dim: Dimension of a code, D.
        commitment_weight: Weight of the third term, which moves the codes.
        entropy_weight: Weight of the entropy terms; 0 leaves them out.
        temperature: Temperature of the entropy terms' softmax.
        seed: Seed of the normally distributed initial codes.

    Example:
        >>> tuple(IBQ(num_embeddings=16, embedding_dim=4).encode(torch.randn(2, 4, 8, 8)).shape)
        (2, 8, 8)
    """

    soft = True

    def __init__(
        self,
        num_embeddings: Count = 512,
        embedding_dim: Count = 64,
        commitment_weight: NonNegative = 0.25,
        entropy_weight: NonNegative = 0.05,
        temperature: Positive = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.commitment_weight, self.entropy_weight, self.temperature = commitment_weight, entropy_weight, temperature
        codebook = torch.randn(num_embeddings, embedding_dim, generator=torch.Generator().manual_seed(seed))
        self.codebook = nn.Parameter(codebook)

    def quantize(self, rows: Tensor) -> QuantizerOutput:
        quantized, indices, entropies, sums = zip(*in_chunks(self._block, self.num_embeddings, rows), strict=True)
        q, index = torch.cat(quantized), torch.cat(indices)
        codes, finite = self.codebook[index], finite_rows(rows)
        # A row that is not finite makes the loss NaN, but not the gradient of a code.
        loss = F.mse_loss(q, torch.where(finite, rows, q.detach())) + F.mse_loss(rows, codes.detach())
        terms = {"double_quantization_loss": loss.detach()}
        loss = loss + self.commitment_weight * F.mse_loss(codes, torch.where(finite, rows, codes).detach())
        q = torch.where(finite, q, math.nan)
        if self.entropy_weight:
            sample_entropy, probs = torch.cat(entropies).mean(), torch.stack(sums).sum(0) / rows.shape[0]
            batch_entropy = entropy(mean_over_ranks(probs) if self.training else probs)
            loss = loss + self.entropy_weight * (sample_entropy - batch_entropy)
            terms |= {"sample_entropy": sample_entropy.detach(), "batch_entropy": batch_entropy.detach()}
        return QuantizerOutput(q, index, loss, terms)

    def _block(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return for a block (N, D) the codes (N, D), indices (N,), entropies (N,) and the sum of p_T (K,)."""
        logits = torch.where(finite_rows(rows), rows, 0) @ self.codebook.T
        indices, probs = logits.argmax(1), logits.softmax(1)
        quantized = self.codebook[indices] + (probs - probs.detach()) @ self.codebook
        if not self.entropy_weight:
            return quantized, indices, rows.new_zeros(0), rows.new_zeros(0)
        log_probs = (logits / self.temperature).log_softmax(1)
        sharp = log_probs.exp()
        return quantized, indices, -(sharp * log_probs).sum(1), sharp.sum(0)
