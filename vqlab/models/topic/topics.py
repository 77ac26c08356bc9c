"""Initial topics by NMF, and the evaluation of topics by the training texts."""

import warnings
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import normalize
from torch import Tensor

from vqlab.metrics.topics.coherence import npmi
from vqlab.metrics.topics.words import TopicTable, dead_topics, duplicate_topics, top_word_ids, topic_places

MAX_DOCUMENTS = 20_000  # more make NMF slow, but not better
SMOOTHING = 0.1  # fraction of the corpus distribution in each topic, so that no word has probability 0
TOP = 10  # words of a topic for coherence and diversity
OVERLAP = 0.5  # fraction of common words from which a topic is a duplicate of another


def nmf_topics(documents: csr_matrix, num_topics: int, seed: int = 0) -> Tensor:
    """Return topics (K, V) by NMF of weighted documents (N, V), of at most 20,000 of them; rows sum to 1."""
    if documents.shape[0] > MAX_DOCUMENTS:
        chosen = np.random.default_rng(seed).choice(documents.shape[0], MAX_DOCUMENTS, replace=False)
        documents = documents[np.sort(chosen)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the initial topics need not be optimal
        factors = NMF(num_topics, init="nndsvda", random_state=seed, max_iter=200).fit(documents).components_
    corpus = np.asarray(documents.mean(0)).reshape(1, -1)
    mixed = (1 - SMOOTHING) * normalize(factors + 1e-12, "l1") + SMOOTHING * normalize(corpus + 1e-12, "l1")
    return torch.from_numpy(mixed).float()


def topic_table(topics: Tensor, words: list[list[str]], data: Any, num_documents: Tensor | None) -> TopicTable:
    """Return the table of ``topics`` (K, V); ``num_documents`` (K,) held-out documents have each as dominant topic."""
    reference = getattr(data, "reference", None)
    ids = top_word_ids(topics, len(words[0]))
    remarks: dict[int, list[str]] = {k: [] for k in range(len(topics))}
    for (first, second), fraction in duplicate_topics(ids, OVERLAP).items():
        remarks[second].append(f"has {fraction:.0%} of its words in common with {first}")
    coherence = np.zeros(len(topics))
    if reference is not None:
        coherence = npmi(reference.cooccurrence(ids, None))
        frequencies = torch.from_numpy(np.asarray(data.train_counts().sum(0)).ravel())
        for topic, why in dead_topics(topics.cpu(), frequencies, num_documents).items():
            remarks[topic].append(why)
    order = np.argsort(-coherence, kind="stable").tolist()
    return TopicTable(
        numbers=order,
        words=[words[k] for k in order],
        shares=np.take_along_axis(topics.cpu().numpy(), ids, 1)[order],
        documents=None if num_documents is None else [int(num_documents[k]) for k in order],
        coherence=None if reference is None else [round(float(coherence[k]), 4) for k in order],
        remarks=[", ".join(remarks[k]) for k in order],
        places=topic_places(topics)[order],
    )
