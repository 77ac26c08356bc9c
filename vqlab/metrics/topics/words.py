"""All metrics of a set of topics by their top words, dead topics, and the table of topics.

``top_words`` is (K, n) word ids, the most probable first and none twice in a topic. The values depend on n: 10 is
usual, Dieng et al. take 25.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.sparse import csr_array
from torch import Tensor

from vqlab.errors import UserError
from vqlab.metrics.topics.coherence import coherences
from vqlab.metrics.topics.cooccurrence import ReferenceCorpus


def topic_figures(top_words: ArrayLike, reference: ReferenceCorpus) -> dict[str, float]:
    """Return the logged metrics of topics, means over the topics.

    ``npmi``, ``uci`` (window 10), ``cp`` (70), ``cv`` (110), ``npmi_doc``, ``umass`` (documents), ``topic_diversity``,
    ``topic_redundancy`` and ``inverted_rbo``; of a reference of word counts, which has no windows, without the first
    four.

    Example:
        >>> reference = ReferenceCorpus([0, 1, 0, 1, 2, 3], offsets=[0, 2, 4, 6], vocab_size=4)
        >>> figures = topic_figures([[0, 1], [2, 3]], reference)
        >>> round(figures["npmi"], 3), figures["topic_diversity"]
        (1.0, 1.0)
    """
    words = np.asarray(top_words)
    return {
        **{name: float(values.mean()) for name, values in coherences(words, reference).items()},
        "topic_diversity": topic_diversity(words),
        "topic_redundancy": topic_redundancy(words),
        "inverted_rbo": inverted_rbo(words),
    }


def top_word_ids(topics: Tensor | np.ndarray, n: int = 10) -> np.ndarray:
    """Return the ``n`` most probable words (K, n) int64 of ``topics`` (K, V); ties go to the smaller id."""
    topics = torch.as_tensor(topics)
    if n > topics.shape[1]:
        raise UserError(f"n must be at most the size of the vocabulary, {topics.shape[1]}, got {n}")
    return topics.argsort(dim=1, descending=True, stable=True)[:, :n].cpu().numpy()


def dead_topics(
    topics: Tensor, frequencies: Tensor, num_documents: Tensor | None = None, tolerance: float = 0.1
) -> dict[int, str]:
    """Return the uninformative topics of ``topics`` (K, V), rows that sum to 1, and the reason.

    ``frequencies`` (V,) are those of the words in the corpus, ``num_documents`` (K,) those where a topic is dominant.
    Distributions count as equal if their total variation distance, in [0, 1], is below ``tolerance``.
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
    dead: dict[int, str] = {}
    for reason, found in checks.items():
        for topic in found.nonzero().flatten().tolist():
            dead.setdefault(topic, reason)
    return dict(sorted(dead.items()))


def topic_diversity(top_words: ArrayLike) -> float:
    """Return the fraction of distinct words among all top words, in [1 / K, 1] (Dieng, Ruiz and Blei 2020)."""
    words = np.asarray(top_words)
    return len(np.unique(words)) / words.size


def topic_redundancy(top_words: ArrayLike) -> float:
    """Return the mean fraction of a topic's words that another has, too (Burkhardt and Kramer 2019), 0 for one."""
    shares = shared_words(top_words).toarray()
    others = ~np.eye(len(shares), dtype=bool)
    return float(shares[others].mean()) if len(shares) > 1 else 0.0


def inverted_rbo(top_words: ArrayLike, p: float = 0.9) -> float:
    """Return 1 - rank-biased overlap, the mean over all pairs of topics, in [0, 1] (Bianchi, Terragni and Hovy 2021).

    RBO = X_n / n p^n + (1 - p) / p sum_d X_d / d p^d, with X_d the words that the first d of both lists have in common
    (Webber, Moffat and Zobel 2010): the smaller ``p``, the more weight the first words have. 1 for one topic.
    """
    words = np.asarray(top_words)
    num_topics, n = words.shape
    if num_topics == 1:
        return 1.0
    # A shared word counts in every X_d from the deeper of its two ranks on, so the sum can be taken word by word.
    depth = np.arange(1, n + 1)
    weights = (1 - p) / p * p**depth / depth
    weights[-1] += p**n / n
    from_rank_on = weights[::-1].cumsum()[::-1]
    rank = np.broadcast_to(np.arange(n), words.shape).ravel()
    order = np.lexsort((rank, words.ravel()))
    sorted_words = words.ravel()[order]
    shallower = np.arange(len(order)) - np.searchsorted(sorted_words, sorted_words)  # topics with the word before this
    overlap = (shallower * from_rank_on[rank[order]]).sum()
    return float(1 - overlap / (num_topics * (num_topics - 1) / 2))


def duplicate_topics(top_words: ArrayLike, share: float = 0.5) -> dict[tuple[int, int], float]:
    """Return the pairs of topics that share at least ``share`` of their top words, the most similar first."""
    shares = shared_words(top_words).tocoo()
    pairs = zip(shares.row.tolist(), shares.col.tolist(), shares.data.tolist(), strict=True)
    alike = {(i, j): value for i, j, value in pairs if i < j and value >= share}
    return dict(sorted(alike.items(), key=lambda item: (-item[1], item[0])))


def shared_words(top_words: ArrayLike) -> csr_array:
    """Return the fraction (K, K) of their top words that two topics share."""
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
