"""Metrics of topics by their top words, dead topics, and the topic table.

``top_words`` are (K, n) word ids, the most probable first, all different within a topic. Values depend on n.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.sparse import csr_array
from torch import Tensor

from vqlab.metrics.topics.coherence import coherences
from vqlab.metrics.topics.cooccurrence import ReferenceCorpus


def topic_figures(top_words: ArrayLike, reference: ReferenceCorpus) -> dict[str, float]:
    """Return the logged metrics of topics, means over the topics.

    ``npmi``, ``uci`` (window 10), ``cp`` (70), ``cv`` (110), ``npmi_doc``, ``umass`` (documents), ``topic_diversity``,
    ``topic_redundancy`` and ``inverted_rbo``. A reference of word counts has no windows and gives no first four.

    Example:
        >>> reference = ReferenceCorpus([0, 1, 0, 1, 2, 3], offsets=[0, 2, 4, 6], vocab_size=4)
        >>> metrics = topic_figures([[0, 1], [2, 3]], reference)
        >>> round(metrics["npmi"], 3), metrics["topic_diversity"]
        (1.0, 1.0)
    """
    overlaps = (topic_diversity, topic_redundancy, inverted_rbo)
    coherence = {name: float(values.mean()) for name, values in coherences(top_words, reference).items()}
    return coherence | {metric.__name__: metric(top_words) for metric in overlaps}


def top_word_ids(topics: Tensor | np.ndarray, n: int = 10) -> np.ndarray:
    """Return the ``n`` <= V most probable words (K, n) int64 of ``topics`` (K, V); ties go to the smaller id."""
    return torch.as_tensor(topics).argsort(dim=1, descending=True, stable=True)[:, :n].cpu().numpy()


def dead_topics(
    topics: Tensor, frequencies: Tensor, num_documents: Tensor | None = None, tolerance: float = 0.1
) -> dict[int, str]:
    """Return the uninformative topics of ``topics`` (K, V), rows that sum to 1, with the reason.

    ``frequencies`` (V,) are the word counts of the corpus; ``num_documents`` (K,) counts the documents in which a topic
    is dominant. Distributions are equal if their total variation distance, in [0, 1], is below ``tolerance``.
    """
    topics = topics.double()
    uniform = torch.full_like(topics[0], 1 / topics.shape[1])
    frequencies = frequencies.to(topics) / frequencies.sum()
    checks = {
        "uniform": (topics - uniform).abs().sum(1) / 2 < tolerance,
        "equal to the frequencies of the corpus": (topics - frequencies).abs().sum(1) / 2 < tolerance,
    }
    if num_documents is not None:
        checks["dominant in no document"] = num_documents == 0
    rows = zip(*(found.tolist() for found in checks.values()), strict=True)
    reasons = [[reason for reason, found in zip(checks, row, strict=True) if found] for row in rows]
    return {topic: found[0] for topic, found in enumerate(reasons) if found}


def topic_diversity(top_words: ArrayLike) -> float:
    """Return the fraction of distinct words among all top words, in [1 / K, 1] (Dieng, Ruiz and Blei 2020)."""
    words = np.asarray(top_words)
    return len(np.unique(words)) / words.size


def topic_redundancy(top_words: ArrayLike) -> float:
    """Return the mean fraction of top words that two topics have in common (Burkhardt and Kramer 2019); 0 for one."""
    num_topics = len(np.asarray(top_words))
    return float((overlap_matrix(top_words).sum() - num_topics) / max(1, num_topics * (num_topics - 1)))


def inverted_rbo(top_words: ArrayLike, p: float = 0.9) -> float:
    """Return 1 - rank-biased overlap, the mean over all pairs of topics, in [0, 1] (Bianchi, Terragni and Hovy 2021).

    RBO = X_n / n p^n + (1 - p) / p sum_d X_d / d p^d, where X_d is the number of words that the first d of both lists
    have in common (Webber, Moffat and Zobel 2010): the smaller ``p``, the more weight the first words have.
    """
    words = np.asarray(top_words)
    depths = np.arange(1, words.shape[1] + 1)
    overlaps = np.array([topic_redundancy(words[:, :depth]) for depth in depths])  # mean of X_d / d
    return float(1 - overlaps[-1] * p ** depths[-1] - (1 - p) / p * (overlaps * p**depths).sum())


def duplicate_topics(top_words: ArrayLike, minimum: float = 0.5) -> dict[tuple[int, int], float]:
    """Return the pairs of topics with at least the fraction ``minimum`` of top words in common, in falling order."""
    overlaps = overlap_matrix(top_words).tocoo()
    pairs = zip(overlaps.row.tolist(), overlaps.col.tolist(), overlaps.data.tolist(), strict=True)
    similar = {(i, j): value for i, j, value in pairs if i < j and value >= minimum}
    return dict(sorted(similar.items(), key=lambda item: (-item[1], item[0])))


def overlap_matrix(top_words: ArrayLike) -> csr_array:
    """Return the fraction (K, K) of top words that two topics have in common."""
    words = np.asarray(top_words)
    num_topics, n = words.shape
    has = csr_array((np.ones(words.size), words.ravel(), np.arange(num_topics + 1) * n))
    return (has @ has.T) / n


@dataclass(frozen=True)
class TopicTable:
    """Topics, the most coherent first."""

    numbers: list[int]  # (K,) of the topics
    words: list[list[str]]  # K lists of the n most probable words
    shares: np.ndarray  # (K, n) their probabilities
    documents: list[int] | None  # (K,) held-out documents in which each topic is dominant; None if unknown
    coherence: list[float] | None  # (K,) NPMI over the training documents; None without texts
    remarks: list[str]  # K warnings, empty if there is none
    places: np.ndarray  # (K, 2) positions in the plane, see topic_places

    def table(self) -> tuple[list[str], list[list[object]]]:
        """Return the names of the columns, and one row per topic."""
        words = [" ".join(words) for words in self.words]
        columns = {"topic": self.numbers, "documents": self.documents, "npmi_doc": self.coherence, "words": words}
        known = {name: values for name, values in columns.items() if values is not None} | {"remark": self.remarks}
        return list(known), [list(row) for row in zip(*known.values(), strict=True)]


def topic_places(topics: Tensor) -> np.ndarray:
    """Place topics (K, V) in the plane (K, 2): classical scaling of Jensen-Shannon distances (Torgerson 1952)."""
    topics = topics.double().cpu()
    entropy = torch.special.entr(topics).sum(1)
    rows = [torch.special.entr((topics + topic) / 2).sum(1) for topic in topics]  # by row, because (K, K, V) is large
    squares = (torch.stack(rows) - (entropy[:, None] + entropy) / 2).clamp_min(0)  # squared distances
    centred = squares - squares.mean(0) - squares.mean(1, keepdim=True) + squares.mean()
    values, vectors = torch.linalg.eigh(-centred / 2)
    places = torch.zeros(len(topics), 2, dtype=torch.float64)
    top = min(2, len(topics))
    places[:, :top] = vectors[:, -top:].flip(1) * values[-top:].flip(0).clamp_min(0).sqrt()
    return places.numpy()
