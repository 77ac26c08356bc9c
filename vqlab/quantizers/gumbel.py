"""Gumbel-softmax quantization: codes drawn from a softmax, with a temperature that anneals."""

import math
from functools import partial

import torch
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.anneal import Anneal, extremes, value_at
from vqlab.quantizers.base import CodeStats, Quantizer, QuantizerOutput, Revival
from vqlab.quantizers.estimators import finite_rows
from vqlab.quantizers.sampling import positions, step_seed, uniform_by_sample
from vqlab.quantizers.search import entropy, in_chunks
from vqlab.validation import Count, NonNegative, Positive

DALL_E_TEMPERATURE = Anneal(1.0, 1 / 16, total_steps=150_000)


class GumbelQuantizer(Quantizer):
    """Draw a code from softmax(logits), relaxed so that it is differentiable (Jang et al. 2017, arXiv:1611.01144).

    In training y = softmax((logits + g) / temperature) with Gumbel noise g; quantized is the code of the largest y,
    whose gradient is that of sum_k y_k e_k (straight-through), or this sum itself. In eval mode it is the code of the
    largest logit. loss = kl_weight * mean KL(softmax(logits) || uniform), which keeps the codes alive (DALL-E,
    arXiv:2102.12092). The noise depends on seed, step and sample if ``sample_index`` is set, and on torch's generator
    otherwise.

    Args:
        num_embeddings: Number of codes, K.
        embedding_dim: Dimension of a code, D.
        kl_weight: Weight of the divergence from the uniform distribution.
        temperature: Temperature of the relaxation, or its schedule by step; the default is that of DALL-E.
        straight_through: False returns the mixture of codes in training, which ``decode(indices)`` does not reproduce.
        seed: Seed of the noise.

    Shape:
        input and quantized (B, D, *spatial); indices (B, *spatial) int64 in [0, K).

    Example:
        >>> gumbel = GumbelQuantizer(16, 4, temperature=0.5)
        >>> out = gumbel(torch.randn(2, 4, 8, 8))
        >>> torch.equal(gumbel.decode(out.indices), out.quantized)
        True
    """

    soft = True
    steps: Tensor

    def __init__(
        self,
        num_embeddings: Count = 512,
        embedding_dim: Count = 64,
        kl_weight: NonNegative = 5e-4,
        temperature: Anneal | Positive = DALL_E_TEMPERATURE,
        straight_through: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(extremes(temperature)) <= 0:
            raise UserError(f"temperature must stay above 0, got {temperature}")
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.kl_weight, self.straight_through, self.seed = kl_weight, straight_through, seed
        self.anneal = temperature
        self.logits = nn.Linear(embedding_dim, num_embeddings)
        generator = torch.Generator().manual_seed(seed)
        self.codebook = nn.Parameter(torch.randn(num_embeddings, embedding_dim, generator=generator))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @property
    def temperature(self) -> Tensor:
        """The temperature of the current step, a scalar."""
        return value_at(self.anneal, self.steps)

    def quantize(self, rows: Tensor) -> QuantizerOutput:
        keys = None
        if self.training and self.sample_index is not None:
            num = positions(rows, self.sample_index)
            keys = (self.sample_index[:, None] * num + torch.arange(num, device=rows.device)).flatten()
        # Outside the blocks: the compiler's partitioner cannot recompute these scalars within one.
        draw = partial(self._draw, temperature=self.temperature, seed=step_seed(self.seed, self.steps))
        blocks = in_chunks(draw, self.num_embeddings, rows, keys)
        quantized, indices, kl = (torch.cat(parts) for parts in zip(*blocks, strict=True))
        kl = kl.mean()
        stats = CodeStats.empty(rows) if self.training else None  # to count the step
        return QuantizerOutput(quantized, indices, self.kl_weight * kl, {"kl": kl.detach()}, stats)

    def commit(self, stats: CodeStats) -> list[Revival]:
        self.steps += 1
        return []

    def _draw(
        self, rows: Tensor, keys: Tensor | None, temperature: Tensor, seed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return for a block of rows (N, D) the codes (N, D), indices (N,) and divergences (N,)."""
        finite = finite_rows(rows)  # others give NaN, and no gradient to the codebook
        logits = self.logits(torch.where(finite, rows, 0))
        kl = torch.where(finite[:, 0], math.log(self.num_embeddings) - entropy(logits.softmax(1)), math.nan)
        if not self.training:
            indices = logits.argmax(1)
            return torch.where(finite, self.codebook[indices], math.nan), indices, kl
        noisy = logits + self._noise(logits, keys, seed)
        indices, soft = noisy.argmax(1), (noisy / temperature).softmax(1)
        if self.straight_through:
            quantized = self.codebook[indices] + (soft - soft.detach()) @ self.codebook
        else:
            quantized = soft @ self.codebook
        return torch.where(finite, quantized, math.nan), indices, kl

    def _noise(self, logits: Tensor, keys: Tensor | None, seed: Tensor) -> Tensor:
        """Return Gumbel noise (N, K), -ln(-ln u)."""
        if keys is None:
            return -torch.empty_like(logits).exponential_().log()
        uniform = uniform_by_sample(keys, self.num_embeddings, seed).view_as(logits)
        return -(-uniform.log()).log().to(logits)
