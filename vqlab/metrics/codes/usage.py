"""Codebook utilization: perplexity and usage over all codes since the last reset, on all ranks."""

import torch
from torch import Tensor
from torchmetrics import Metric

from vqlab.errors import UserError

MAX_COUNTS = 2**26  # half a gigabyte of int64


class CodebookUsage(Metric):
    """Perplexity of the codes, and the fraction of codes that were used at all.

    perplexity = exp(-sum_k p_k ln p_k), p_k the frequency of code k among all indices since ``reset``, on all ranks; at
    most K. Several codebooks are counted separately; perplexity is then their mean, usage the fraction of all their
    codes. Negative indices (a dropped residual depth) do not count.

    Args:
        num_embeddings: Number of codes of a codebook, K.
        num_codebooks: Number of codebooks, Q.

    Raises:
        UserError: If there are more than 2^26 codes in all.

    Example:
        >>> usage = CodebookUsage(8)
        >>> usage.update(torch.tensor([[0, 1], [2, 3]]))
        >>> {name: value.item() for name, value in usage.compute().items()}
        {'perplexity': 4.0, 'codebook_usage': 0.5}
    """

    full_state_update = False
    higher_is_better = True
    counts: Tensor

    def __init__(self, num_embeddings: int, num_codebooks: int = 1) -> None:
        super().__init__()
        if num_embeddings * num_codebooks > MAX_COUNTS:
            raise UserError(f"num_embeddings must be at most {MAX_COUNTS // num_codebooks}, got {num_embeddings}")
        self.num_embeddings, self.num_codebooks = num_embeddings, num_codebooks
        self.add_state("counts", torch.zeros(num_codebooks, num_embeddings, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, indices: Tensor) -> None:
        """Count ``indices`` (..., Q), or of any shape with one codebook, in [0, K); negative ones do not count."""
        place = (indices.reshape(-1, self.num_codebooks).T + 1).clamp_min(0)  # column 0 collects negative ones
        counts = place.new_zeros(self.num_codebooks, self.num_embeddings + 1)
        counts.scatter_add_(1, place, torch.ones_like(place))  # bincount would wait for the GPU
        # Not in place: `reset` inside Trainer.validate makes an inference tensor, which a later fit may not change.
        self.counts = self.counts + counts[:, 1:]

    def compute(self) -> dict[str, Tensor]:
        """Return ``perplexity`` in [1, K] and ``codebook_usage`` in [0, 1]."""
        probs = self.counts / self.counts.sum(1, keepdim=True).clamp_min(1)
        perplexity = torch.exp(-torch.special.xlogy(probs, probs).sum(1)).mean()
        return {"perplexity": perplexity, "codebook_usage": (self.counts > 0).float().mean()}
