"""Gumbel-softmax quantization: codes drawn from a softmax, with a temperature that anneals."""

import math
from functools import partial

import torch
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.anneal import Anneal, extremes, value_at
from vqlab.quantizers.base import CodeStats, Quantizer, QuantizerOutput, Revival
from vqlab.quantizers.sampling import positions, step_seed, uniform_by_sample
from vqlab.quantizers.search import entropy, finite_rows, in_chunks
from vqlab.validation import Count, NonNegative, Positive

DALL_E_TEMPERATURE = Anneal(1.0, 1 / 16, total_steps=150_000)


class GumbelQuantizer(Quantizer):
    """Draw a code from softmax(logits) with a differentiable relaxation (Jang et al. 2017, arXiv:1611.01144).

    In training y = softmax((logits + g) / temperature) with Gumbel noise g; quantized is the code of the largest y,
    with the gradient of sum_k y_k e_k (straight-through), or this sum; in eval mode the code of the largest logit.
    loss = kl_weight * mean KL(softmax(logits) || uniform) (DALL-E, arXiv:2102.12092). The noise depends on seed, step
    and sample if ``sample_index`` is set, otherwise on torch's generator.

    Args:
        num_embeddings: Number of codes, K.
        embedding_dim: Dimension of a code, D.
        kl_weight: Weight of the KL divergence from the uniform distribution.
        temperature: Temperature of the relaxation, or its schedule by step. Default: the schedule of DALL-E.
        straight_through: False returns the mixture of codes in training, which ``decode(indices)`` does not reproduce.
        seed: Seed of the noise.

    Example:
        >>> tuple(GumbelQuantizer(16, 4, temperature=0.5).encode(torch.randn(2, 4, 8, 8)).shape)
        (2, 8, 8)
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
        self.kl_weight, self.anneal = kl_weight, temperature
        self.straight_through, self.seed = straight_through, seed
        self.logits = nn.Linear(embedding_dim, num_embeddings)
        codebook = torch.randn(num_embeddings, embedding_dim, generator=torch.Generator().manual_seed(seed))
        self.codebook = nn.Parameter(codebook)
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
        # Computed here because torch.compile cannot recompute these scalars within a checkpointed block.
        draw = partial(self._draw, temperature=self.temperature, seed=step_seed(self.seed, self.steps))
        blocks = in_chunks(draw, self.num_embeddings, rows, keys)
        quantized, indices, kls = (torch.cat(parts) for parts in zip(*blocks, strict=True))
        kl, stats = kls.mean(), CodeStats.empty(rows) if self.training else None  # to count the step
        return QuantizerOutput(quantized, indices, self.kl_weight * kl, {"kl": kl.detach()}, stats)

    def commit(self, stats: CodeStats) -> list[Revival]:
        self.steps += 1
        return []

    def _draw(self, rows: Tensor, keys: Tensor | None, temperature: Tensor, seed: Tensor) -> tuple[Tensor, ...]:
        """Return the codes (N, D), indices (N,) and divergences (N,) of a block of rows (N, D)."""
        finite = finite_rows(rows)  # other rows give NaN and no gradient of the codebook
        logits = self.logits(torch.where(finite, rows, 0))
        kl = torch.where(finite[:, 0], math.log(self.num_embeddings) - entropy(logits.softmax(1)), math.nan)
        if not self.training:
            indices = logits.argmax(1)
            return torch.where(finite, self.codebook[indices], math.nan), indices, kl
        noisy = logits + self._noise(logits, keys, seed)
        indices, soft = noisy.argmax(1), (noisy / temperature).softmax(1)
        hard = self.codebook[indices] + (soft - soft.detach()) @ self.codebook
        return torch.where(finite, hard if self.straight_through else soft @ self.codebook, math.nan), indices, kl

    def _noise(self, logits: Tensor, keys: Tensor | None, seed: Tensor) -> Tensor:
        """Return Gumbel noise (N, K), -ln(-ln u)."""
        if keys is None:
            return -torch.empty_like(logits).exponential_().log()
        uniform = uniform_by_sample(keys, self.num_embeddings, seed).view_as(logits)
        return -(-uniform.log()).log().to(logits)
