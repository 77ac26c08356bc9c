"""What is said of a model's topics, by the texts that they were learned from."""

from typing import Any

import numpy as np
from torch import Tensor, from_numpy

from vqlab.metrics.coherence import npmi
from vqlab.metrics.cooccurrence import ReferenceCorpus
from vqlab.metrics.topic_overlap import duplicate_topics
from vqlab.metrics.topics import dead_topics, top_word_ids, topic_figures

TOP = 10  # words of a topic that coherence and diversity look at
SHARED = 0.5  # a topic that has so many of them in common with another is called its duplicate

Table = tuple[list[str], list[list[Any]]]  # names of the columns, rows


def reference_of(data: Any) -> ReferenceCorpus | None:
    """Return the training texts of a text DataModule; None where there is none."""
    if not hasattr(data, "train_counts"):
        return None
    tokens = data.train_tokens()
    if tokens is None:
        return ReferenceCorpus.from_counts(data.train_counts())
    return ReferenceCorpus(tokens.ids, tokens.offsets, data.vocab_size)


def judge_topics(topics: Tensor, data: Any) -> dict[str, float]:
    """Return the figures of ``topics`` (K, V) among the training texts of ``data``, none where there are no texts."""
    reference = reference_of(data)
    return {} if reference is None else topic_figures(top_word_ids(topics, min(TOP, topics.shape[1])), reference)


def topic_table(topics: Tensor, words: list[list[str]], data: Any, num_documents: Tensor | None) -> Table:
    """Return one row per topic, the most coherent first.

    Args:
        topics: (K, V).
        words: Top words of each topic.
        data: The text DataModule of the training.
        num_documents: (K,) in how many held-out documents each topic is dominant, where that is known.
    """
    reference = reference_of(data)
    ids = top_word_ids(topics, len(words[0]))
    remarks: dict[int, list[str]] = {k: [] for k in range(len(topics))}
    for (first, second), share in duplicate_topics(ids, SHARED).items():
        remarks[second].append(f"shares {share:.0%} with {first}")
    scores = np.zeros(len(topics))
    if reference is not None:
        counts = reference.cooccurrence(ids, None)
        scores = npmi(counts)
        frequencies = from_numpy(np.asarray(data.train_counts().sum(0)).ravel())
        for topic, why in dead_topics(topics.cpu(), frequencies, num_documents).items():
            remarks[topic].append(why)
    documents = ["" if num_documents is None else int(num_documents[k]) for k in range(len(topics))]
    rows = [
        [int(k), documents[k], round(float(scores[k]), 3), " ".join(words[k]), ", ".join(remarks[k])]
        for k in np.argsort(-scores, kind="stable")
    ]
    return ["topic", "documents", "npmi_doc", "words", "remark"], rows
