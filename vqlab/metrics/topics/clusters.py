"""Whether documents with the same dominant topic have the same label."""

import torch
from torch import Tensor
from torchmetrics import Metric

from vqlab.errors import UserError

MAX_COUNTS = 2**24  # 128 megabytes of int64


class TopicClusters(Metric):
    """Count documents by dominant topic and label, and compare the two partitions.

    ``nmi`` is 2 I(topic; label) / (H(topic) + H(label)), in [0, 1], 0 where both have one part only; ``purity`` is the
    share of documents whose label is the most frequent one of their topic, and rises with K by itself;
    ``topic_usage`` is the share of topics that are dominant in any document. Documents without a label, -1, count
    for ``topic_usage`` alone.

    Args:
        num_topics: K.
        num_classes: C; 0 ignores labels and leaves out ``nmi`` and ``purity``.

    Raises:
        UserError: If there is no topic, or there are more than 2^24 counts.

    Example:
        >>> clusters = TopicClusters(num_topics=4, num_classes=2)
        >>> clusters.update(torch.eye(4)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1]))
        >>> {name: round(value.item(), 4) for name, value in clusters.compute().items()}
        {'topic_usage': 0.5, 'nmi': 1.0, 'purity': 1.0}
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_topics: int, num_classes: int) -> None:
        super().__init__()
        if num_topics < 1 or num_classes < 0:
            raise UserError(
                f"num_topics must be at least 1 and num_classes at least 0, got {num_topics} and {num_classes}: "
                "give TopicClusters other numbers"
            )
        if num_topics * (num_classes + 1) > MAX_COUNTS:
            raise UserError(
                f"{num_topics} topics in {num_classes} classes are too many to be counted (at most {MAX_COUNTS} "
                "pairs): set num_classes=0"
            )
        self.num_topics, self.num_classes = num_topics, num_classes
        # The first column holds documents without a label.
        zeros = torch.zeros(num_topics, num_classes + 1, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(self, theta: Tensor, label: Tensor) -> None:
        """Count documents with proportions ``theta`` (B, K) and ``label`` (B,) int64 in [0, C), or -1."""
        if theta.ndim != 2 or theta.shape[1] != self.num_topics or label.shape != theta.shape[:1]:
            raise UserError(
                f"theta must be (B, {self.num_topics}) and label (B,), got {tuple(theta.shape)} and "
                f"{tuple(label.shape)}: give TopicClusters another num_topics"
            )
        column = (label + 1).clamp_min(0) if self.num_classes else torch.zeros_like(label)
        counts = torch.zeros_like(self.counts)
        counts.index_put_((theta.argmax(1), column), counts.new_ones(()), accumulate=True)
        # Not in place: what `reset` makes inside Trainer.validate or test is a tensor that a later fit may not change.
        self.counts = self.counts + counts

    def compute(self) -> dict[str, Tensor]:
        """Return the figures by name, scalars in float32."""
        figures = {"topic_usage": (self.counts.sum(1) > 0).double().mean()}
        if self.num_classes:
            labelled = self.counts[:, 1:]
            figures["nmi"] = normalized_mutual_information(labelled)
            figures["purity"] = labelled.amax(1).sum() / labelled.sum().clamp_min(1)
        return {name: value.float() for name, value in figures.items()}


def normalized_mutual_information(counts: Tensor) -> Tensor:
    """Return 2 I / (H + H') of the rows and columns of a contingency table, float64; 0 if it has one of each.

    Example:
        >>> normalized_mutual_information(torch.tensor([[5, 5], [5, 5]])).item()
        0.0
    """
    joint = counts.double() / counts.sum().clamp_min(1)
    entropies = torch.special.entr(joint.sum(1)).sum() + torch.special.entr(joint.sum(0)).sum()
    information = entropies - torch.special.entr(joint).sum()
    return torch.where(entropies > 0, 2 * information.clamp_min(0) / entropies.clamp_min(1e-12), 0.0)
