"""Vector quantization with a learnt codebook (van den Oord et al. 2017, arXiv:1711.00937)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from vqlab.nn.distributed import all_gather_rows, all_sum
from vqlab.quantizers.base import CodeStats, DataInit, Quantizer, QuantizerOutput, Revival
from vqlab.quantizers.estimators import ESTIMATORS, finite_rows, unit, vq_loss
from vqlab.quantizers.sampling import (
    exponential_race,
    first,
    positions,
    smallest_k,
    step_seed,
    uniform_by_content,
    uniform_by_sample,
)
from vqlab.quantizers.search import nearest_code
from vqlab.validation import Count, NonNegative, Positive, Probability

KMEANS_ITERATIONS = 10
KMEANS_ROWS_PER_CODE = 32  # more rows than this per code do not change the centres visibly
REVIVALS_PER_STEP = 512
SAME_KEY = 1e-5  # rows whose keys are this close are considered equal but for rounding


class VectorQuantizer(Quantizer):
    """Replace each vector by the nearest of K learnt codes.

    loss = commitment_weight * mean |z - sg(e)|^2, plus mean |sg(z) - e|^2 if the codebook is trained by gradient
    (paper, equation 3). With ``codebook_update="ema"`` a code is the running mean of its vectors instead (appendix
    A.1): N_k <- decay N_k + (1 - decay) n_k, m_k <- decay m_k + (1 - decay) sum z, e_k = m_k / N_k, with n_k, z over
    the global batch. N_k starts from the counts of the initialisation, and the decay of step t is at most
    (1 + t) / (10 + t), so that the codes follow the encoder in its first steps.

    A code without an assignment among the last ``revive_after`` * K vectors is dead and is replaced by a vector of the
    current global batch, chosen with probability proportional to its squared distance from its code, as k-means++
    chooses centres (Arthur and Vassilvitskii 2007). All this is the same on any number of ranks.

    Args:
        num_embeddings: Number of codes, K.
        embedding_dim: Dimension of a code, D.
        commitment_weight: Weight of the commitment loss (beta in the paper).
        codebook_update: ``ema`` (running means) or ``loss`` (gradient of the codebook loss).
        ema_decay: Decay of the running means, per optimizer step, once enough steps have passed.
        estimator: Gradient through the quantizer: ``ste`` (straight-through) or ``rotation`` (Fifty et al. 2024).
        distance: ``euclidean``, or ``cosine``: vectors and codes are normalised to length 1 (Yu et al. 2021).
        init: ``kmeans`` (Lloyd iterations on the first global batch), ``data`` (vectors of that batch), or ``uniform``
            in (-1/K, 1/K), the common default of published code, which is known to collapse.
        revive_after: Revive a code after ``revive_after * num_embeddings`` consecutive vectors without an assignment.
            null never revives.
        seed: Seed of the initialisation and of the revival.

    Shape:
        input and quantized (B, D, *spatial); indices (B, *spatial) int64 in [0, K).

    Example:
        >>> quantizer = VectorQuantizer(num_embeddings=16, embedding_dim=4)
        >>> out = quantizer(torch.randn(2, 4, 8, 8))
        >>> tuple(out.quantized.shape), tuple(out.indices.shape)
        ((2, 4, 8, 8), (2, 8, 8))
    """

    ema_sums: Tensor
    ema_counts: Tensor
    age: Tensor  # (K,) int64, vectors since the last assignment
    steps: Tensor

    def __init__(
        self,
        num_embeddings: Count = 512,
        embedding_dim: Count = 64,
        commitment_weight: NonNegative = 0.25,
        codebook_update: Literal["ema", "loss"] = "ema",
        ema_decay: Probability = 0.99,
        estimator: Literal["ste", "rotation"] = "ste",
        distance: Literal["euclidean", "cosine"] = "euclidean",
        init: Literal["kmeans", "data", "uniform"] = "kmeans",
        revive_after: Positive | None = 16,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.commitment_weight, self.codebook_update, self.ema_decay = commitment_weight, codebook_update, ema_decay
        self.estimate, self.distance, self.init = ESTIMATORS[estimator], distance, init
        self.residual_gain = 1.0 if distance == "euclidean" else None  # a direction leaves no remainder to quantize
        self.revive_after, self.seed = revive_after, seed

        generator = torch.Generator().manual_seed(seed)
        codebook = self.bound((2 * torch.rand(num_embeddings, embedding_dim, generator=generator) - 1) / num_embeddings)
        if codebook_update == "loss":
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
            self.register_buffer("ema_sums", codebook.clone())
            self.register_buffer("ema_counts", torch.ones(num_embeddings))
        self.register_buffer("age", torch.zeros(num_embeddings, dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.first_batch = DataInit(awaited=init != "uniform")

    def bound(self, rows: Tensor) -> Tensor:
        return unit(rows) if self.distance == "cosine" else rows

    def quantize(self, rows: Tensor) -> QuantizerOutput:
        if self.training:
            self.initialize(rows.detach())
        codebook = self.bound(self.codebook)
        indices = nearest_code(rows.detach(), codebook.detach())
        codes = codebook[indices]
        loss, terms = vq_loss(rows, codes, self.commitment_weight, learnt=self.codebook_update == "loss")
        stats = self._stats(rows.detach(), indices, codes.detach()) if self.training else None
        return QuantizerOutput(self.estimate(rows, codes.detach()), indices, loss, terms, stats)

    def lookup(self, indices: Tensor) -> Tensor:
        return self.bound(self.codebook)[indices]

    def commit(self, stats: CodeStats) -> list[Revival]:
        self.steps += 1
        if self.codebook_update == "ema":
            weight = (9 / (10.0 + self.steps)).clamp_min(1 - self.ema_decay)
            self.ema_counts.lerp_(stats.counts, weight)
            self.ema_sums.lerp_(stats.sums, weight)
            means = self.bound(self.ema_sums / self.ema_counts[:, None])
            # The mean of an unused code is constant, but its quotient drifts by rounding, and is 0 / 0 after underflow.
            torch.where(stats.counts[:, None] > 0, means, self.codebook, out=self.codebook)
        self.age += stats.counts.sum(dtype=torch.float64).long()
        self.age.masked_fill_(stats.counts > 0, 0)
        return [] if self.revive_after is None else [self._revive(stats)]

    def _revive(self, stats: CodeStats) -> Revival:
        """Replace dead codes, lowest index first, by the candidates in order; without synchronizing with the GPU."""
        dead = self.age >= (self.revive_after or 0) * self.num_embeddings
        chosen = first(dead, len(stats.keys))  # the n-th dead code takes the n-th candidate
        revives = dead[chosen] & stats.keys.isfinite()
        rows = torch.where(revives[:, None], stats.candidates, self.codebook.detach()[chosen])
        self.codebook.data[chosen] = rows
        revived = torch.zeros_like(dead).index_put((chosen,), revives)
        self.age.masked_fill_(revived, 0)
        if self.codebook_update == "ema":  # else the next step would move the code back towards its old mean
            self.ema_sums[chosen] = torch.where(revives[:, None], stats.candidates, self.ema_sums[chosen])
            self.ema_counts.masked_fill_(revived, 1.0)
        return Revival(self.codebook, revived)

    @torch.no_grad()
    def _stats(self, rows: Tensor, indices: Tensor, codes: Tensor) -> CodeStats:
        finite = finite_rows(rows)
        counts = rows.new_zeros(self.num_embeddings).index_add_(0, indices, finite[:, 0].to(rows.dtype))
        sums = rows.new_zeros(self.num_embeddings, self.embedding_dim if self.codebook_update == "ema" else 0)
        if self.codebook_update == "ema":
            sums.index_add_(0, indices, torch.where(finite, rows, 0))
        if self.revive_after is None:
            return CodeStats(counts, sums, rows[:0], counts.new_empty(0, dtype=torch.float64))
        seed = step_seed(self.seed, self.steps)
        if self.sample_index is None:
            uniform = uniform_by_content(rows, seed, self.codebook.detach().mean(0))
        else:
            uniform = uniform_by_sample(self.sample_index, positions(rows, self.sample_index), seed)
        keys = exponential_race(uniform, (rows - codes).square().sum(1).double()).masked_fill(~finite[:, 0], math.inf)
        return CodeStats(counts, sums, *smallest_k(rows, keys, min(self.num_embeddings, REVIVALS_PER_STEP)))

    @torch.no_grad()
    def initialize(self, rows: Tensor) -> None:
        """Set the codebook from the first global batch: random vectors, then, for ``kmeans``, Lloyd iterations."""
        if not self.first_batch.awaited:
            return
        summed = rows.sum(0, dtype=torch.float64)  # to float32 below: the same bits however the batch is split
        summed = all_sum(torch.cat([summed, summed.new_tensor([len(rows)])]))
        if not summed.isfinite().all():
            return  # a NaN must not become the codebook; the loss is NaN, too
        total, rows_per_code = int(summed[-1]), KMEANS_ROWS_PER_CODE if self.init == "kmeans" else 1
        num = min(total, rows_per_code * self.num_embeddings)
        keys = uniform_by_content(rows, self.seed, (summed[:-1] / total).to(rows.dtype))
        own_rows, own_keys = smallest_k(rows, keys, num, SAME_KEY)
        sample, _ = smallest_k(all_gather_rows(own_rows), all_gather_rows(own_keys), num, SAME_KEY)
        # With fewer vectors than codes the vectors repeat; the copies are never nearest and are revived later.
        codes = sample[torch.arange(self.num_embeddings, device=rows.device) % len(sample)]
        for _ in range(KMEANS_ITERATIONS if self.init == "kmeans" else 0):
            indices = nearest_code(sample, codes)
            counts = torch.bincount(indices, minlength=self.num_embeddings)
            means = torch.zeros_like(codes).index_add(0, indices, sample) / counts.clamp_min(1)[:, None]
            codes = self.bound(torch.where(counts[:, None] > 0, means, codes))
        codes = all_gather_rows(codes)[: self.num_embeddings]  # rank 0's: a GPU adds in any order, so last bits differ
        self.codebook.data.copy_(codes)
        if self.codebook_update == "ema":
            counts = all_sum(torch.bincount(nearest_code(rows, codes), minlength=self.num_embeddings))
            self.ema_counts.copy_(counts.clamp_min(1))
            self.ema_sums.copy_(codes * self.ema_counts[:, None])
        self.first_batch.done()
