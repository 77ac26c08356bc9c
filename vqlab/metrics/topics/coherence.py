"""Topic coherence (Röder, Both and Hinneburg 2015, "Exploring the space of topic coherence measures").

Every measure takes the counts of ``ReferenceCorpus.cooccurrence`` and returns one value per topic, (K,) float64, equal
to gensim's ``CoherenceModel`` at the window of its paper. Compare only values of equal reference, window and number of
top words. The mutual information of a word that does not occur is 0; that of gensim is infinite.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from vqlab.metrics.topics.cooccurrence import Cooccurrence, ReferenceCorpus

EPSILON = 1e-12  # of the paper, added to the probability of a pair


def npmi(counts: Cooccurrence) -> np.ndarray:
    """Return the mean normalised pointwise mutual information of all pairs, in [-1, 1] (gensim's c_npmi).

    NPMI(i, j) = ln (P(i, j) / (P(i) P(j))) / -ln P(i, j) (Bouma 2009; Aletras and Stevenson 2013).
    """
    return off_diagonal_mean(pair_npmi(counts))


def uci(counts: Cooccurrence) -> np.ndarray:
    """Return the mean pointwise mutual information of all pairs in nats (Newman et al. 2010; gensim's c_uci)."""
    return off_diagonal_mean(pair_pmi(counts))


def umass(counts: Cooccurrence) -> np.ndarray:
    """Return the mean of ln P(word | a preceding word), at most 0 (Mimno et al. 2011; gensim's u_mass)."""
    joint, single = probabilities(counts)
    return mean_of_preceding(np.log(divided(joint + EPSILON, single[:, None, :], undefined=1.0)))


def cv(counts: Cooccurrence) -> np.ndarray:
    """Return C_V in [-1, 1] (gensim's c_v).

    The vector of a word is its NPMI with all words of the topic; C_V is the mean cosine of these vectors and their sum.
    """
    vectors = pair_npmi(counts)
    whole = vectors.sum(1, keepdims=True)
    sizes = np.linalg.norm(vectors, axis=2) * np.linalg.norm(whole, axis=2)
    return divided((vectors * whole).sum(2), sizes).mean(1)


def cp(counts: Cooccurrence) -> np.ndarray:
    """Return C_P in [-1, 1], which gensim does not have.

    The mean of Fitelson's confirmation (P(i | j) - P(i | not j)) / (P(i | j) + P(i | not j)) over words j before i.
    """
    joint, single = probabilities(counts)
    word, condition = single[:, :, None], single[:, None, :]
    given = divided(joint, condition)
    otherwise = divided(word - joint, 1 - condition)
    return mean_of_preceding(divided(given - otherwise, given + otherwise))


# Logged name of each measure, and its window; None is the whole document.
MEASURES: dict[str, tuple[Callable[[Cooccurrence], np.ndarray], int | None]] = {
    "npmi": (npmi, 10),
    "uci": (uci, 10),
    "cp": (cp, 70),
    "cv": (cv, 110),
    "npmi_doc": (npmi, None),
    "umass": (umass, None),
}


def coherences(top_words: ArrayLike, reference: ReferenceCorpus) -> dict[str, np.ndarray]:
    """Return every measure of ``top_words`` (K, n), (K,) float64 each; for word counts only those of documents."""
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
    """Divide; the result is ``undefined`` where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, undefined), where=denominator > 0)
