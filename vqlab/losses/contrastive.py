"""Which of several things belongs to which."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.nn.documents import Documents
from vqlab.nn.precision import precise


def info_nce(anchors: Tensor, positives: Tensor, temperature: float, same: Tensor | None = None) -> Tensor:
    """Return InfoNCE (van den Oord et al. 2018, arXiv:1807.03748, equation 4) of cosines over a temperature.

    Row i of ``positives`` belongs to row i of ``anchors``; the other rows are its negatives.

    Args:
        anchors: (B, D).
        positives: (B, D).
        temperature: What cosines are divided by.
        same: (B,) numbers of kinds; rows of one kind are no negatives of each other. Null takes all for different.

    Example:
        >>> x = torch.eye(2)
        >>> round(info_nce(x, x, temperature=1.0).item(), 4)  # log(e + 1) - 1
        0.3133
        >>> info_nce(x, x, temperature=1.0, same=torch.tensor([0, 0])).item()
        0.0
    """
    cosines = F.normalize(precise(anchors), dim=1) @ F.normalize(precise(positives), dim=1).T
    logits, own = cosines / temperature, torch.arange(len(anchors), device=anchors.device)
    if same is not None:
        alike = (same[:, None] == same) & (own[:, None] != own)
        logits = logits.masked_fill(alike, -torch.inf)
    return F.cross_entropy(logits, own)


class TopicContrast(nn.Module):
    """What documents and their topic proportions have to be recognised by: embeddings of topics and of labels.

    Args:
        num_topics: K.
        vocab_size: V.
        num_classes: Number of labels; 0 for none.
        embedding_dim: Dimensions of the embeddings.

    Example:
        >>> contrast = TopicContrast(3, 50, num_classes=2, embedding_dim=8)
        >>> theta = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])
        >>> by_topic = contrast.by_topic(torch.full((2, 50), 0.02), theta, temperature=0.5, averaged=True)
        >>> by_label = contrast.by_label(theta, torch.tensor([0, 1]), temperature=0.5)
        >>> by_topic.shape == by_label.shape == ()
        True
    """

    def __init__(self, num_topics: int, vocab_size: int, num_classes: int, embedding_dim: int) -> None:
        super().__init__()
        self.projection = nn.Parameter(torch.randn(vocab_size, embedding_dim))
        self.topics = nn.Parameter(torch.randn(num_topics, embedding_dim))
        self.labels = nn.Parameter(torch.randn(num_classes, embedding_dim))

    def by_topic(self, documents: Documents, theta: Tensor, temperature: float, averaged: bool) -> Tensor:
        """Tell documents by the embeddings of their topics.

        Args:
            documents: B distributions over words.
            theta: (B, K).
            temperature: Of InfoNCE.
            averaged: Whether all topics are embedded, averaged by ``theta``, or the dominant one alone.
        """
        anchors = documents @ self.projection
        if averaged:
            return info_nce(anchors, theta @ self.topics, temperature)
        dominant = theta.argmax(1)
        return info_nce(anchors, self.topics[dominant], temperature, same=dominant)

    def by_label(self, theta: Tensor, labels: Tensor, temperature: float) -> Tensor:
        """Tell the averaged topic embeddings of documents by the embeddings of their ``labels`` (B,)."""
        return info_nce(theta @ self.topics, self.labels[labels], temperature, same=labels)
