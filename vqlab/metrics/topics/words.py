"""All figures of a set of topics at once, what has gone wrong with topics, and topics beside true ones."""

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
    """Return what is logged of topics, means over the topics.

    ``npmi``, ``uci`` (window 10), ``cp`` (70), ``cv`` (110), ``npmi_doc``, ``umass`` (documents), ``topic_diversity``,
    ``topic_redundancy`` and ``inverted_rbo``. A reference of word counts has no windows and gives ``npmi_doc`` and
    ``umass`` alone.

    Args:
        top_words: (K, n) word ids, the most probable first; see ``top_word_ids``.
        reference: The texts by which coherence is judged.

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
    """Return the ``n`` most probable words (K, n) int64 of ``topics`` (K, V); of equal ones the smaller id is first.

    Example:
        >>> top_word_ids(torch.tensor([[0.1, 0.2, 0.5, 0.2]]), n=3)
        array([[2, 1, 3]])
    """
    topics = torch.as_tensor(topics)
    if n > topics.shape[1]:
        raise UserError(f"a vocabulary of {topics.shape[1]} words has no top {n}: ask for fewer top words")
    return topics.argsort(dim=1, descending=True, stable=True)[:, :n].cpu().numpy()


def dead_topics(
    topics: Tensor, frequencies: Tensor, num_documents: Tensor | None = None, tolerance: float = 0.1
) -> dict[int, str]:
    """Return the topics that say nothing, and why.

    Args:
        topics: (K, V), rows that sum to 1.
        frequencies: (V,) of the words in the corpus, of any sum.
        num_documents: (K,) in how many documents each topic is dominant, where that is known.
        tolerance: Total variation distance, in [0, 1], below which two distributions are the same.

    Example:
        >>> topics = torch.tensor([[0.9, 0.1, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 0.5, 0.5]])
        >>> dead_topics(topics, torch.tensor([5, 1, 1, 1]), num_documents=torch.tensor([3, 3, 0]))
        {1: 'uniform', 2: 'dominant in no document'}
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
    """Found topics beside true ones.

    Attributes:
        index: (K,) int64, the found topic of each true one, each found topic once.
        cosine: (K,) float64, how alike the two are.
    """

    index: np.ndarray
    cosine: np.ndarray


def matched_topics(found: Tensor | np.ndarray, true: Tensor | np.ndarray) -> MatchedTopics:
    """Assign found topics to planted ones so that the sum of the cosines is highest.

    Args:
        found: (K', V), K' >= K.
        true: (K, V).

    Raises:
        UserError: If the shapes do not fit.

    Example:
        >>> matched_topics(torch.eye(3)[[2, 0, 1]], torch.eye(3))
        MatchedTopics(index=array([1, 2, 0]), cosine=array([1., 1., 1.]))
    """
    found, true = (torch.as_tensor(topics).detach().cpu().double() for topics in (found, true))
    if found.ndim != 2 or true.ndim != 2 or found.shape[1] != true.shape[1] or len(found) < len(true):
        raise UserError(
            f"topics {tuple(found.shape)} cannot be matched with true ones {tuple(true.shape)}: both need the same "
            "vocabulary, and at least as many must be found as there are"
        )
    unit_found, unit_true = (torch.nn.functional.normalize(topics, dim=1) for topics in (found, true))
    cosine = (unit_true @ unit_found.T).numpy()
    rows, index = linear_sum_assignment(cosine, maximize=True)
    return MatchedTopics(index, cosine[rows, index])
