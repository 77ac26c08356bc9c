"""All metrics of a set of topics, dead topics, and matching of found topics with true ones."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from vqlab.errors import UserError
from vqlab.metrics.topics.coherence import coherences
from vqlab.metrics.topics.cooccurrence import ReferenceCorpus
from vqlab.metrics.topics.overlap import inverted_rbo, topic_diversity, topic_redundancy


def topic_figures(top_words: ArrayLike, reference: ReferenceCorpus) -> dict[str, float]:
    """Return the logged metrics of topics, means over the topics.

    ``npmi``, ``uci`` (window 10), ``cp`` (70), ``cv`` (110), ``npmi_doc``, ``umass`` (documents), ``topic_diversity``,
    ``topic_redundancy`` and ``inverted_rbo``. A reference of word counts has no windows and gives only ``npmi_doc`` and
    ``umass`` of the coherences.

    ``top_words`` is (K, n) word ids, the most probable first; see ``top_word_ids``.

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


@dataclass(frozen=True)
class MatchedTopics:
    """Found topics matched with true ones."""

    index: np.ndarray  # (K,) int64, the found topic of each true one, all different
    cosine: np.ndarray  # (K,) float64, their cosine similarity


def matched_topics(found: Tensor | np.ndarray, true: Tensor | np.ndarray) -> MatchedTopics:
    """Assign found topics (K', V), K' >= K, to true ones (K, V) so that the sum of the cosines is largest."""
    found, true = (torch.as_tensor(topics).detach().cpu().double() for topics in (found, true))
    if found.ndim != 2 or true.ndim != 2 or found.shape[1] != true.shape[1] or len(found) < len(true):
        raise UserError(f"found must be (K' >= K, V) for true (K, V), got {tuple(found.shape)} and {tuple(true.shape)}")
    unit_found, unit_true = (torch.nn.functional.normalize(topics, dim=1) for topics in (found, true))
    cosine = (unit_true @ unit_found.T).numpy()
    rows, index = linear_sum_assignment(cosine, maximize=True)
    return MatchedTopics(index, cosine[rows, index])
