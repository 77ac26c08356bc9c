"""Entropy of a factorised q(h | x), and mutual information of image and code."""

import torch
from torch import Tensor
from torchmetrics import Metric


class ProposalEntropy(Metric):
    """Entropy of q at a position, and mutual information between image and code, both in nats per position.

    I(x; h) = H(mean over x of q(h | x)) - mean over x of H(q(h | x)), averaged over positions; near 0 where q is near
    uniform, though the perplexity of its sampled codes is high.

    Args:
        positions: Positions of a code, P.
        num_embeddings: Categories, K.

    Example:
        >>> entropy = ProposalEntropy(positions=1, num_embeddings=2)
        >>> entropy.update(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]).log())  # two images, each sure of its own code
        >>> {name: round(value.item(), 4) for name, value in entropy.compute().items()}
        {'site_entropy': 0.0, 'mutual_information': 0.6931}
    """

    full_state_update = False
    probs: Tensor
    entropy: Tensor
    count: Tensor

    def __init__(self, positions: int, num_embeddings: int) -> None:
        super().__init__()
        self.add_state("probs", torch.zeros(positions, num_embeddings), dist_reduce_fx="sum")
        self.add_state("entropy", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, log_q: Tensor) -> None:
        """Add log-probabilities (B, P, K)."""
        q = log_q.float().exp()
        self.probs = self.probs + q.sum(0)
        self.entropy = self.entropy + torch.special.entr(q).sum(2).mean(1).sum()
        self.count = self.count + len(q)

    def compute(self) -> dict[str, Tensor]:
        """Return ``site_entropy`` and ``mutual_information``, scalars."""
        count = self.count.clamp_min(1)
        mean = self.entropy / count
        return {
            "site_entropy": mean,
            "mutual_information": torch.special.entr(self.probs / count).sum(1).mean() - mean,
        }
