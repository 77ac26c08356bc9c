"""InfoNCE and the contrastive losses of a topic model."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.precision import upcast
from vqlab.nn.topic import Documents


def info_nce(anchors: Tensor, positives: Tensor, temperature: float, same: Tensor | None = None) -> Tensor:
    """Return InfoNCE (van den Oord et al. 2018, arXiv:1807.03748, equation 4) of cosine similarities.

    Row i of ``positives`` (B, D) is the positive of row i of ``anchors`` (B, D). The negatives are the other rows, or,
    with the classes ``same`` (B,), the rows of other classes.

    Example:
        >>> round(info_nce(torch.eye(2), torch.eye(2), temperature=1.0).item(), 4)  # log(e + 1) - 1
        0.3133
    """
    cosines = F.normalize(upcast(anchors), dim=1) @ F.normalize(upcast(positives), dim=1).T
    logits, own = cosines / temperature, torch.arange(len(anchors), device=anchors.device)
    if same is not None:
        alike = (same[:, None] == same) & (own[:, None] != own)
        logits = logits.masked_fill(alike, -torch.inf)
    return F.cross_entropy(logits, own)


class TopicContrast(nn.Module):
    """Contrastive losses between documents and embeddings of their topics or labels.

    Three variants: a projection of the generator's representation (F features) matches the embedding of the dominant
    topic, or the mean of the K topic embeddings weighted by the proportions (:meth:`by_topic`); or that weighted mean
    matches the embedding of the document's label (:meth:`by_label`).

    Example:
        >>> contrast = TopicContrast(num_topics=3, in_features=50, num_classes=2, embedding_dim=8)
        >>> contrast.by_label(torch.eye(3)[:2], torch.tensor([0, 1]), temperature=0.5).shape
        torch.Size([])
    """

    def __init__(self, num_topics: int, in_features: int, num_classes: int, embedding_dim: int) -> None:
        super().__init__()
        self.projection = nn.Parameter(torch.randn(in_features, embedding_dim))
        self.topics = nn.Parameter(torch.randn(num_topics, embedding_dim))
        self.labels = nn.Parameter(torch.randn(num_classes, embedding_dim))

    def by_topic(self, features: Documents, theta: Tensor, temperature: float, averaged: bool) -> Tensor:
        """Match ``features`` (B, F) with the dominant topic, or with all, weighted by ``theta`` (B, K)."""
        anchors = features @ self.projection
        if averaged:
            return info_nce(anchors, theta @ self.topics, temperature)
        dominant = theta.argmax(1)
        return info_nce(anchors, self.topics[dominant], temperature, same=dominant)

    def by_label(self, theta: Tensor, labels: Tensor, temperature: float) -> Tensor:
        """Match the weighted topic embeddings of documents with the embeddings of their ``labels`` (B,)."""
        if labels.min() < 0 or labels.max() >= len(self.labels):
            found = f"labels must lie in 0 .. {len(self.labels) - 1}, got {labels.min()} to {labels.max()}"
            raise UserError(f"{found}: use labelled data, or set contrast=averaged")
        return info_nce(theta @ self.topics, self.labels[labels], temperature, same=labels)
