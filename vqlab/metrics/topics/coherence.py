"""Topic coherence (Röder, Both and Hinneburg 2015, "Exploring the space of topic coherence measures").

Every measure takes the counts of ``ReferenceCorpus.cooccurrence`` and returns one figure per topic, (K,) float64; with
the window of its paper it is that of gensim's ``CoherenceModel``. Compare only values of equal reference, window and
number of top words. The mutual information of a word that does not occur is 0; gensim's is infinite.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from vqlab.metrics.topics.cooccurrence import Cooccurrence, ReferenceCorpus

EPSILON = 1e-12  # the paper's, added to the probability of a pair


def npmi(counts: Cooccurrence) -> np.ndarray:
    """Mean normalised pointwise mutual information of all pairs, in [-1, 1]; gensim's c_npmi with a window of 10.

    NPMI(i, j) = ln (P(i, j) / (P(i) P(j))) / -ln P(i, j) (Bouma 2009; Aletras and Stevenson 2013).
    """
    return off_diagonal_mean(pair_npmi(counts))


def uci(counts: Cooccurrence) -> np.ndarray:
    """Mean pointwise mutual information of all pairs in nats (Newman et al. 2010); gensim's c_uci, window of 10."""
    return off_diagonal_mean(pair_pmi(counts))


def umass(counts: Cooccurrence) -> np.ndarray:
    """Mean of ln P(word | one that precedes it) (Mimno et al. 2011), at most 0; gensim's u_mass with documents."""
    joint, single = probabilities(counts)
    return mean_of_preceding(np.log(divided(joint + EPSILON, single[:, None, :], undefined=1.0)))


def cv(counts: Cooccurrence) -> np.ndarray:
    """C_V (Röder et al. 2015), in [-1, 1]; gensim's c_v with a window of 110.

    A word's vector holds its NPMI with every word of the topic; C_V is the mean cosine of these vectors and their sum.
    """
    vectors = pair_npmi(counts)
    whole = vectors.sum(1, keepdims=True)
    sizes = np.linalg.norm(vectors, axis=2) * np.linalg.norm(whole, axis=2)
    return divided((vectors * whole).sum(2), sizes).mean(1)


def cp(counts: Cooccurrence) -> np.ndarray:
    """C_P (Röder et al. 2015), in [-1, 1], with a window of 70; gensim does not have it.

    Mean of Fitelson's confirmation (P(i | j) - P(i | not j)) / (P(i | j) + P(i | not j)) of a word i by one that
    precedes it.
    """
    joint, single = probabilities(counts)
    word, condition = single[:, :, None], single[:, None, :]
    given = divided(joint, condition)
    otherwise = divided(word - joint, 1 - condition)
    return mean_of_preceding(divided(given - otherwise, given + otherwise))


# The name under which a measure is logged, and its window; None is the whole document.
MEASURES: dict[str, tuple[Callable[[Cooccurrence], np.ndarray], int | None]] = {
    "npmi": (npmi, 10),
    "uci": (uci, 10),
    "cp": (cp, 70),
    "cv": (cv, 110),
    "npmi_doc": (npmi, None),
    "umass": (umass, None),
}


def coherences(top_words: ArrayLike, reference: ReferenceCorpus) -> dict[str, np.ndarray]:
    """Return every measure of every topic, each with its own window; from word counts, only those of documents.

    ``top_words`` is (K, n) word ids, the most probable first; the values are (K,) float64 by the names of ``MEASURES``.
    """
    windows = {window for _, window in MEASURES.values() if reference.has_order or window is None}
    counts = {window: reference.cooccurrence(top_words, window) for window in windows}
    return {name: measure(counts[window]) for name, (measure, window) in MEASURES.items() if window in counts}


def probabilities(counts: Cooccurrence) -> tuple[np.ndarray, np.ndarray]:
    """Return P(i, j) (K, n, n) and P(i) (K, n)."""
    joint = counts.joint / counts.total
    return joint, np.diagonal(joint, axis1=1, axis2=2)


def pair_pmi(counts: Cooccurrence) -> np.ndarray:
    """Return the pointwise mutual information (K, n, n) in nats."""
    joint, single = probabilities(counts)
    return np.log(divided(joint + EPSILON, single[:, :, None] * single[:, None, :], undefined=1.0))


def pair_npmi(counts: Cooccurrence) -> np.ndarray:
    """Return the normalised pointwise mutual information (K, n, n)."""
    return pair_pmi(counts) / -np.log(counts.joint / counts.total + EPSILON)


def off_diagonal_mean(values: np.ndarray) -> np.ndarray:
    """Average (K, n, n) over all pairs of different words."""
    n = values.shape[1]
    return values[:, ~np.eye(n, dtype=bool)].mean(1)


def mean_of_preceding(values: np.ndarray) -> np.ndarray:
    """Average (K, n, n) over the pairs [i, j] with j before i."""
    return values[:, *np.tril_indices(values.shape[1], -1)].mean(1)


def divided(numerator: np.ndarray, denominator: np.ndarray, undefined: float = 0.0) -> np.ndarray:
    """Divide, giving ``undefined`` where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, undefined), where=denominator > 0)
