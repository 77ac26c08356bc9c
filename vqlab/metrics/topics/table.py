"""The table of a model's topics."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class TopicTable:
    """Topics, the most coherent first."""

    numbers: list[int]  # (K,) of the topics
    words: list[list[str]]  # K lists of the n most probable words
    shares: np.ndarray  # (K, n) their probabilities
    documents: list[int] | None  # (K,) held-out documents in which each topic is dominant; None where unknown
    coherence: list[float] | None  # (K,) NPMI over the training documents; None without texts
    remarks: list[str]  # K warnings; empty strings for sound topics
    places: np.ndarray  # (K, 2) positions in the plane, see topic_places

    def table(self) -> tuple[list[str], list[list[object]]]:
        """Return names of columns, and one row per topic."""
        known = {"documents": self.documents, "npmi_doc": self.coherence}
        columns = {
            "topic": self.numbers,
            **{name: values for name, values in known.items() if values is not None},
            "words": [" ".join(words) for words in self.words],
            "remark": self.remarks,
        }
        return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


def topic_places(topics: Tensor) -> np.ndarray:
    """Place topics (K, V) in the plane (K, 2): classical scaling of Jensen-Shannon distances (Torgerson 1952)."""
    topics = topics.double().cpu()
    entropy = torch.special.entr(topics).sum(1)
    rows = [torch.special.entr((topics + topic) / 2).sum(1) for topic in topics]  # one at a time: (K, K, V) is large
    squares = (torch.stack(rows) - (entropy[:, None] + entropy) / 2).clamp_min(0)  # the distance is a root
    centred = squares - squares.mean(0) - squares.mean(1, keepdim=True) + squares.mean()
    values, vectors = torch.linalg.eigh(-centred / 2)
    places = torch.zeros(len(topics), 2, dtype=torch.float64)
    top = min(2, len(topics))
    places[:, :top] = vectors[:, -top:].flip(1) * values[-top:].flip(0).clamp_min(0).sqrt()
    return places.numpy()
