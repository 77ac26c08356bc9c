"""How much of a codebook is used: perplexity and usage over everything seen since the last reset, on all ranks."""

import torch
from torch import Tensor
from torchmetrics import Metric


class CodebookUsage(Metric):
    """Count codes, and compute their perplexity and the share of codes that were used at all.

    perplexity = exp(-sum_k p_k ln p_k), p_k the share of code k among all indices since ``reset``; at most K. Averages
    over batches or ranks are wrong for both figures (ranks that use different halves of the codebook each report half),
    so the counts are summed first.

    Args:
        num_embeddings: Number of codes, K.

    Example:
        >>> usage = CodebookUsage(8)
        >>> usage.update(torch.tensor([[0, 1], [2, 3]]))
        >>> {name: value.item() for name, value in usage.compute().items()}
        {'perplexity': 4.0, 'codebook_usage': 0.5}
    """

    full_state_update = False
    higher_is_better = True
    counts: Tensor

    def __init__(self, num_embeddings: int) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings

        self.add_state("counts", torch.zeros(num_embeddings, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, indices: Tensor) -> None:
        """Count ``indices`` (any shape, int64 in [0, K))."""
        # Not in place: what `reset` makes inside Trainer.validate or test is a tensor that a later fit may not change.
        self.counts = self.counts + torch.bincount(indices.flatten(), minlength=self.num_embeddings)

    def compute(self) -> dict[str, Tensor]:
        """Return ``perplexity`` in [1, K] and ``codebook_usage`` in [0, 1]."""
        probs = self.counts / self.counts.sum().clamp_min(1)
        perplexity = torch.exp(-torch.special.xlogy(probs, probs).sum())
        return {"perplexity": perplexity, "codebook_usage": (self.counts > 0).float().mean()}
