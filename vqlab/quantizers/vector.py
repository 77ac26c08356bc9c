"""Vector quantization with a learned codebook (van den Oord et al. 2017, arXiv:1711.00937)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from vqlab.nn.distributed import all_gather_rows, all_sum
from vqlab.quantizers import sampling
from vqlab.quantizers.base import ESTIMATORS, CodeStats, DataInit, Quantizer, QuantizerOutput, Revival, vq_loss
from vqlab.quantizers.search import finite_rows, nearest_code, unit
from vqlab.validation import Count, NonNegative, Positive, Probability

KMEANS_ITERATIONS = 10
KMEANS_ROWS_PER_CODE = 128  # for 64 dimensions, 32 rows per code cost 2 dB in new data
REVIVALS_PER_STEP = 512
SAME_KEY = 1e-5  # rows whose keys differ by less are equal except for rounding


class VectorQuantizer(Quantizer):
    """Replace each vector by the nearest of K learned codes.

    loss = commitment_weight * mean |z - sg(e)|^2, plus mean |sg(z) - e|^2 if the codebook is trained by gradient
    (equation 3). With ``codebook_update="ema"`` a code is the running mean of its vectors instead (appendix A.1):
    N_k <- decay N_k + (1 - decay) n_k, m_k <- decay m_k + (1 - decay) sum z, e_k = m_k / N_k over the global batch.
    N_k starts from the counts of the initialisation; the decay of step t is at most (1 + t) / (10 + t).

    A code without an assignment among the last ``revive_after`` * K vectors is replaced by a vector of the global
    batch, drawn in proportion to its squared distance from its code, as in k-means++ (Arthur and Vassilvitskii 2007).

    Args:
        num_embeddings: Number of codes, K.
        embedding_dim: Dimension of a code, D.
        commitment_weight: Weight of the commitment loss (beta in the paper).
        codebook_update: ``ema`` (running means) or ``loss`` (gradient of the codebook loss).
        ema_decay: Decay of the running means per optimizer step, after the first steps.
        estimator: Gradient through the quantizer: ``ste`` (straight-through) or ``rotation`` (Fifty et al. 2024).
        distance: ``euclidean``, or ``cosine``: vectors and codes are normalised to length 1 (Yu et al. 2021).
        init: ``kmeans`` on the first global batch, ``data`` (its vectors), or ``uniform`` in (-1/K, 1/K): may collapse.
        revive_after: Revive a code after ``revive_after * num_embeddings`` vectors without an assignment; null: never.
        seed: Seed of the initialisation and of the revival.

    Example:
        >>> out = VectorQuantizer(num_embeddings=16, embedding_dim=4)(torch.randn(2, 4, 8, 8))
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
        self.residual_gain = 1.0 if distance == "euclidean" else None  # the residual of a direction is no direction
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
        return self.assign(rows, nearest_code(rows.detach(), self.bound(self.codebook).detach()))

    def assign(self, rows: Tensor, indices: Tensor) -> QuantizerOutput:
        """Replace ``rows`` (N, D) by the codes of ``indices`` (N,)."""
        codes = self.lookup(indices)
        loss, terms = vq_loss(rows, codes, self.commitment_weight, trained=self.codebook_update == "loss")
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
            # The mean of an unused code is constant, but the quotient has rounding errors and underflows to 0 / 0.
            torch.where(stats.counts[:, None] > 0, means, self.codebook, out=self.codebook)
        self.age += stats.counts.sum(dtype=torch.float64).long()
        self.age.masked_fill_(stats.counts > 0, 0)
        return [] if self.revive_after is None else [self._revive(stats)]

    def _revive(self, stats: CodeStats) -> Revival:
        """Replace the n-th dead code by the n-th candidate, without synchronizing with the GPU."""
        dead = self.age >= (self.revive_after or 0) * self.num_embeddings
        chosen = sampling.first(dead, len(stats.keys))
        revives = dead[chosen] & stats.keys.isfinite()
        self.codebook.data[chosen] = torch.where(revives[:, None], stats.candidates, self.codebook.detach()[chosen])
        revived = torch.zeros_like(dead).index_put((chosen,), revives)
        self.age.masked_fill_(revived, 0)
        if self.codebook_update == "ema":  # otherwise the next step moves the code back towards its old mean
            self.ema_sums[chosen] = torch.where(revives[:, None], stats.candidates, self.ema_sums[chosen])
            self.ema_counts.masked_fill_(revived, 1.0)
        return self.codebook, revived

    @torch.no_grad()
    def _stats(self, rows: Tensor, indices: Tensor, codes: Tensor) -> CodeStats:
        finite = finite_rows(rows)
        counts = rows.new_zeros(self.num_embeddings).index_add_(0, indices, finite[:, 0].to(rows.dtype))
        sums = rows.new_zeros(self.num_embeddings, self.embedding_dim if self.codebook_update == "ema" else 0)
        if self.codebook_update == "ema":
            sums.index_add_(0, indices, torch.where(finite, rows, 0))
        if self.revive_after is None:
            return CodeStats(counts, sums, rows[:0], counts.new_empty(0, dtype=torch.float64))
        seed = sampling.step_seed(self.seed, self.steps)
        if self.sample_index is None:
            uniform = sampling.uniform_by_content(rows, seed, self.codebook.detach().mean(0))
        else:
            uniform = sampling.uniform_by_sample(self.sample_index, sampling.positions(rows, self.sample_index), seed)
        # The smallest -ln(u) / w are a sample in proportion to the weights w (Efraimidis and Spirakis 2006).
        keys = -uniform.clamp(1e-300, 1).log() / (rows - codes).square().sum(1).double()
        keys = keys.masked_fill(~finite[:, 0], math.inf)
        return CodeStats(counts, sums, *sampling.smallest_k(rows, keys, min(self.num_embeddings, REVIVALS_PER_STEP)))

    @torch.no_grad()
    def initialize(self, rows: Tensor, batches: int = 1) -> None:
        """Initialize the codebook with random vectors of the first global batches; ``kmeans`` adds Lloyd iterations.

        The running means then continue as means of ``batches`` batches, which one more batch hardly changes.
        """
        if not self.first_batch.awaited:
            return
        summed = rows.sum(0, dtype=torch.float64)  # rounded to float32 below: equal for every split of the batch
        summed = all_sum(torch.cat([summed, summed.new_tensor([len(rows)])]))
        if not summed.isfinite().all():
            return  # the loss is NaN, and the codebook must not be
        total, rows_per_code = int(summed[-1]), KMEANS_ROWS_PER_CODE if self.init == "kmeans" else 1
        num = min(total, rows_per_code * self.num_embeddings)
        keys = sampling.uniform_by_content(rows, self.seed, (summed[:-1] / total).to(rows.dtype))
        own_rows, own_keys = sampling.smallest_k(rows, keys, num, SAME_KEY)
        sample, _ = sampling.smallest_k(all_gather_rows(own_rows), all_gather_rows(own_keys), num, SAME_KEY)
        # If there are fewer vectors than codes, vectors repeat; the copies receive no assignment and are revived later.
        codes = sample[torch.arange(self.num_embeddings, device=rows.device) % len(sample)]
        for _ in range(KMEANS_ITERATIONS if self.init == "kmeans" else 0):
            indices = nearest_code(sample, codes)
            counts = torch.bincount(indices, minlength=self.num_embeddings)
            means = torch.zeros_like(codes).index_add(0, indices, sample) / counts.clamp_min(1)[:, None]
            codes = self.bound(torch.where(counts[:, None] > 0, means, codes))
        codes = all_gather_rows(codes)[: self.num_embeddings]  # those of rank 0: on a GPU rounding differs by rank
        self.codebook.data.copy_(codes)
        if self.codebook_update == "ema":
            counts = all_sum(torch.bincount(nearest_code(rows, codes), minlength=self.num_embeddings))
            self.ema_counts.copy_(counts.clamp_min(1) / batches)
            self.ema_sums.copy_(codes * self.ema_counts[:, None])
            self.steps.fill_(9 * (batches - 1))
        self.first_batch.done()
