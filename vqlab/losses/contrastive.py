"""InfoNCE, and its use for topics."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.precision import upcast
from vqlab.nn.topic import Documents


def info_nce(anchors: Tensor, positives: Tensor, temperature: float, same: Tensor | None = None) -> Tensor:
    """Return InfoNCE (van den Oord et al. 2018, arXiv:1807.03748, equation 4) of cosines over a temperature.

    Row i of ``positives`` (B, D) belongs to row i of ``anchors`` (B, D); the other rows are its negatives, but for rows
    of the same class in ``same`` (B,). Default: all classes differ.

    Example:
        >>> x = torch.eye(2)
        >>> round(info_nce(x, x, temperature=1.0).item(), 4)  # log(e + 1) - 1
        0.3133
        >>> info_nce(x, x, temperature=1.0, same=torch.tensor([0, 0])).item()
        0.0
    """
    cosines = F.normalize(upcast(anchors), dim=1) @ F.normalize(upcast(positives), dim=1).T
    logits, own = cosines / temperature, torch.arange(len(anchors), device=anchors.device)
    if same is not None:
        alike = (same[:, None] == same) & (own[:, None] != own)
        logits = logits.masked_fill(alike, -torch.inf)
    return F.cross_entropy(logits, own)


class TopicContrast(nn.Module):
    """Contrastive losses that tie documents to embeddings of their topics or labels.

    A lab log names an "average-weighted label embedding" only. Three readings: a projection of the generator's hidden
    layer, or document, matches the embedding of the dominant topic, or those of all topics averaged by the proportions
    (:meth:`by_topic`); or the averaged embedding of a real document matches that of its label (:meth:`by_label`).

    Args:
        num_topics: K.
        trait_features: Size F of the documents' representation.
        num_classes: Number of labels; 0 for none.
        embedding_dim: Dimensions of the embeddings.

    Example:
        >>> contrast = TopicContrast(3, 50, num_classes=2, embedding_dim=8)
        >>> theta = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])
        >>> contrast.by_label(theta, torch.tensor([0, 1]), temperature=0.5).shape
        torch.Size([])
    """

    def __init__(self, num_topics: int, trait_features: int, num_classes: int, embedding_dim: int) -> None:
        super().__init__()
        self.projection = nn.Parameter(torch.randn(trait_features, embedding_dim))
        self.topics = nn.Parameter(torch.randn(num_topics, embedding_dim))
        self.labels = nn.Parameter(torch.randn(num_classes, embedding_dim))

    def by_topic(self, traits: Documents, theta: Tensor, temperature: float, averaged: bool) -> Tensor:
        """Match documents ``traits`` (B, F) with the embeddings of their topics ``theta`` (B, K).

        ``averaged`` takes the embeddings of all topics by ``theta``, else the dominant topic's is taken.
        """
        anchors = traits @ self.projection
        if averaged:
            return info_nce(anchors, theta @ self.topics, temperature)
        dominant = theta.argmax(1)
        return info_nce(anchors, self.topics[dominant], temperature, same=dominant)

    def by_label(self, theta: Tensor, labels: Tensor, temperature: float) -> Tensor:
        """Match the averaged topic embeddings of documents with the embeddings of their ``labels`` (B,)."""
        if labels.min() < 0 or labels.max() >= len(self.labels):
            raise UserError(
                f"contrast label needs labels in 0 .. {len(self.labels) - 1}, got {labels.min()} to {labels.max()}: "
                "use labelled data, or set contrast=averaged"
            )
        return info_nce(theta @ self.topics, self.labels[labels], temperature, same=labels)
