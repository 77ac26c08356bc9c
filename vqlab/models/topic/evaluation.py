"""What is said of a model's topics, by the texts that they were learned from."""

from typing import Any

import numpy as np
from torch import Tensor, from_numpy

from vqlab.metrics.topics.coherence import npmi
from vqlab.metrics.topics.overlap import duplicate_topics
from vqlab.metrics.topics.table import TopicTable, topic_places
from vqlab.metrics.topics.words import dead_topics, top_word_ids, topic_figures

TOP = 10  # words of a topic that coherence and diversity look at
SHARED = 0.5  # a topic that has so many of them in common with another is called its duplicate


def evaluate_topics(topics: Tensor, data: Any) -> dict[str, float]:
    """Return the figures of ``topics`` (K, V) among the training texts of ``data``, none where there are no texts."""
    reference = getattr(data, "reference", None)
    return {} if reference is None else topic_figures(top_word_ids(topics, min(TOP, topics.shape[1])), reference)


def topic_table(topics: Tensor, words: list[list[str]], data: Any, num_documents: Tensor | None) -> TopicTable:
    """Return what is to be shown of topics, the most coherent first.

    Args:
        topics: (K, V).
        words: Top words of each topic.
        data: The text DataModule of the training.
        num_documents: (K,) in how many held-out documents each topic is dominant, where that is known.
    """
    reference = getattr(data, "reference", None)
    ids = top_word_ids(topics, len(words[0]))
    remarks: dict[int, list[str]] = {k: [] for k in range(len(topics))}
    for (first, second), share in duplicate_topics(ids, SHARED).items():
        remarks[second].append(f"shares {share:.0%} of its words with {first}")
    coherence = np.zeros(len(topics))
    if reference is not None:
        coherence = npmi(reference.cooccurrence(ids, None))
        frequencies = from_numpy(np.asarray(data.train_counts().sum(0)).ravel())
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
