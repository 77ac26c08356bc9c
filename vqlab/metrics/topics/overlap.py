"""Similarity of topics by their top words.

``top_words`` is (K, n) word ids, the most probable first and none twice in a topic. The values depend on n: 10 is
usual, Dieng et al. take 25.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array


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

    RBO = X_n / n p^n + (1 - p) / p sum_d X_d / d p^d, with X_d the words that the first d of both lists share (Webber,
    Moffat and Zobel 2010): the smaller ``p``, the more weight the first words have. 1 for one topic.
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
