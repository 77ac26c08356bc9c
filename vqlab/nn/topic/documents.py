"""Documents as a network's first layer reads them: B distributions over V words, times a weight (V, H).

A document has few words and a mixture has few topics, so neither needs a dense (B, V) for the product.
"""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from vqlab.nn.precision import upcast


class Documents(Protocol):
    """B distributions over V words; a tensor (B, V) is one too."""

    def __matmul__(self, weight: Tensor, /) -> Tensor: ...  # with a weight (V, H): (B, H)


class Bags:
    """Documents by their words, from dense ``bow`` (B, V) without rows of zeros: rows are divided by their sums."""

    def __init__(self, bow: Tensor) -> None:
        rows, self.words = bow.nonzero(as_tuple=True)
        counts = rows.bincount(minlength=len(bow))
        self.starts = counts.cumsum(0) - counts
        bow = upcast(bow)
        self.fractions = bow[rows, self.words] / bow.sum(1)[rows]

    def __matmul__(self, weight: Tensor) -> Tensor:
        full = upcast(weight)
        fractions = self.fractions.to(full.dtype)
        sums = F.embedding_bag(self.words, full, self.starts, mode="sum", per_sample_weights=fractions)
        return sums.to(weight.dtype)


class Mixtures:
    """Documents that mix topics, kept as ``theta`` (B, K) and ``topics`` (K, V), whose rows sum to 1."""

    def __init__(self, theta: Tensor, topics: Tensor) -> None:
        self.theta, self.topics = theta, topics

    def __matmul__(self, weight: Tensor) -> Tensor:
        return self.theta @ (self.topics @ weight)


def dense(documents: Mixtures | Tensor) -> Tensor:
    """Return documents as distributions over words, (B, V)."""
    return documents.theta @ documents.topics if isinstance(documents, Mixtures) else documents
