"""Agreement of dominant topics with labels."""

import torch
from torch import Tensor
from torchmetrics import Metric

from vqlab.metrics.codes import histograms
from vqlab.validation import Checked, Count, NonNegativeInt


class TopicClusters(Checked, Metric):
    """Contingency table of the dominant topics (of K) and labels (of C) of documents.

    ``nmi`` is 2 I(topic; label) / (H(topic) + H(label)), in [0, 1], 0 if there is one topic and one label; ``purity``
    is the fraction of documents whose label is the most frequent one of their topic, and rises with K; ``topic_usage``
    is the fraction of topics that are dominant in any document. Documents without a label, -1, count only for
    ``topic_usage``; so do all documents if ``num_classes`` is 0.

    Example:
        >>> clusters = TopicClusters(num_topics=4, num_classes=2)
        >>> clusters.update(torch.eye(4)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1]))
        >>> {name: round(value.item(), 4) for name, value in clusters.compute().items()}
        {'topic_usage': 0.5, 'nmi': 1.0, 'purity': 1.0}
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_topics: Count, num_classes: NonNegativeInt) -> None:
        super().__init__()
        self.num_topics, self.num_classes = num_topics, num_classes
        zeros = torch.zeros(num_topics, num_classes + 1, dtype=torch.int64)  # column 0 counts documents without a label
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(self, theta: Tensor, label: Tensor) -> None:
        """Count documents with proportions ``theta`` (B, K) and ``label`` (B,) int64 in [0, C), or -1."""
        column = (label + 1).clamp_min(0) if self.num_classes else torch.zeros_like(label)
        self.counts = self.counts + histograms(theta.argmax(1), column, self.counts)

    def compute(self) -> dict[str, Tensor]:
        """Return float32 scalars by name."""
        values = {"topic_usage": (self.counts.sum(1) > 0).double().mean()}
        if self.num_classes:
            labelled = self.counts[:, 1:]
            joint = labelled.double() / labelled.sum().clamp_min(1)
            entropies = torch.special.entr(joint.sum(1)).sum() + torch.special.entr(joint.sum(0)).sum()
            information = (entropies - torch.special.entr(joint).sum()).clamp_min(0)
            values["nmi"] = 2 * information / entropies.clamp_min(1e-12)
            values["purity"] = joint.amax(1).sum()
        return {name: value.float() for name, value in values.items()}
