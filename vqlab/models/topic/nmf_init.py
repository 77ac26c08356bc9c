"""Where the topics of a topic model begin."""

import warnings

import numpy as np
import torch
from scipy.sparse import spmatrix
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfTransformer
from torch import Tensor

MAX_DOCUMENTS = 20_000  # more make NMF slow and the start no better
SMOOTHING = 0.1  # share of the corpus's own distribution in each topic, so that no word has probability 0


def nmf_topics(counts: spmatrix, num_topics: int, seed: int = 0) -> Tensor:
    """Return the topics (K, V) of a non-negative factorisation of the documents' tf-idf; rows sum to 1.

    Args:
        counts: (N, V), how often each word is in each document; of more than 20,000 documents a seeded choice.
        num_topics: K.
        seed: Seed of the choice and of NMF.

    Example:
        >>> from scipy.sparse import csr_matrix
        >>> documents = csr_matrix([[3, 2, 0, 0], [1, 1, 0, 0], [0, 0, 1, 2], [0, 0, 2, 3]])
        >>> sorted(nmf_topics(documents, 2).argmax(1).tolist())
        [0, 3]
    """
    counts = counts.tocsr().astype(np.float64)
    if counts.shape[0] > MAX_DOCUMENTS:
        counts = counts[np.sort(np.random.default_rng(seed).choice(counts.shape[0], MAX_DOCUMENTS, replace=False))]
    documents = TfidfTransformer().fit_transform(counts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a start need not be at an optimum
        factors = NMF(num_topics, init="nndsvda", random_state=seed, max_iter=200).fit(documents).components_
    usual = np.asarray(documents.mean(0)).ravel() + 1e-12
    mixed = (1 - SMOOTHING) * rows_to_one(factors + 1e-12) + SMOOTHING * rows_to_one(usual[None])
    return torch.from_numpy(mixed).float()


def rows_to_one(rows: np.ndarray) -> np.ndarray:
    """Divide each row by its sum."""
    return rows / rows.sum(1, keepdims=True)
