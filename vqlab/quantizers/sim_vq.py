"""SimVQ: frozen random codes under one learned linear map (Zhu et al. 2024, arXiv:2411.02038)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from vqlab.nn.distributed import all_gather_rows, all_sum
from vqlab.quantizers.base import ESTIMATORS, DataInit, Quantizer, QuantizerOutput, vq_loss
from vqlab.quantizers.search import nearest_code
from vqlab.validation import Count, NonNegative


class SimVQ(Quantizer):
    """Replace each vector by the nearest of the codes W c_k + b: c_k are random and frozen, W and b are learned.

    A gradient of W moves all codes, used or not. loss = commitment_weight * mean |z - sg(e)|^2 + mean |sg(z) - e|^2.

    Args:
        num_embeddings: Number of codes, K.
        embedding_dim: Dimension of a code, D.
        commitment_weight: Weight of the commitment loss.
        estimator: Gradient through the quantizer: ``ste`` (straight-through) or ``rotation``.
        init: ``data`` gives the codes the mean and covariance of the first global batch; ``random`` is the paper's.
        seed: Seed of the frozen codes.

    Example:
        >>> tuple(SimVQ(num_embeddings=16, embedding_dim=4).encode(torch.randn(2, 4, 8, 8)).shape)
        (2, 8, 8)
    """

    frozen: Tensor

    def __init__(
        self,
        num_embeddings: Count = 512,
        embedding_dim: Count = 64,
        commitment_weight: NonNegative = 0.25,
        estimator: Literal["ste", "rotation"] = "ste",
        init: Literal["data", "random"] = "data",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.commitment_weight, self.estimate = commitment_weight, ESTIMATORS[estimator]
        frozen = torch.randn(num_embeddings, embedding_dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("frozen", frozen / math.sqrt(embedding_dim))
        self.projection = nn.Linear(embedding_dim, embedding_dim)
        self.first_batch = DataInit(awaited=init == "data")

    @property
    def codebook(self) -> Tensor:  # type: ignore[override]
        """The current codes (K, D), differentiable with respect to the linear map."""
        return self.projection(self.frozen)

    def quantize(self, rows: Tensor) -> QuantizerOutput:
        if self.training:
            self.initialize(rows.detach())
        codebook = self.codebook
        indices = nearest_code(rows.detach(), codebook.detach())
        codes = codebook[indices]
        loss, terms = vq_loss(rows, codes, self.commitment_weight)
        return QuantizerOutput(self.estimate(rows, codes.detach()), indices, loss, terms)

    @torch.no_grad()
    def initialize(self, rows: Tensor, batches: int = 1) -> None:
        """Give the codes the mean and covariance of the first global batch: W = sqrt(D cov), b = mean."""
        if not self.first_batch.awaited:
            return
        exact = rows.double()
        counts = exact.new_full((1, exact.shape[1]), len(exact))
        moments = all_sum(torch.cat([exact.T @ exact, exact.sum(0)[None], counts]))
        if not moments.isfinite().all():
            return  # the codebook must not become NaN; the loss shows it
        mean = moments[-2] / moments[-1]
        values, vectors = torch.linalg.eigh(moments[:-2] / moments[-1] - mean[:, None] * mean)
        root = vectors * (values.clamp_min(0) * self.embedding_dim).sqrt() @ vectors.T  # C has variance 1 / D
        linear = all_gather_rows(torch.cat([root, mean[None]]))[: len(root) + 1]  # rank 0's, to the last bit
        self.projection.weight.copy_(linear[:-1])
        self.projection.bias.copy_(linear[-1])
        self.first_batch.done()
