"""Error messages of the metrics."""

import numpy as np
import pytest
import torch

from tests.helpers.refusal import refused
from vqlab.metrics import (
    CodebookUsage,
    CodeStatistics,
    FrechetDistance,
    GenerationMetrics,
    ReferenceCorpus,
    TopicClusters,
)


def zeros(*shape):
    return torch.zeros(shape, dtype=torch.int64)


def count(top_words, window=None):
    return ReferenceCorpus([0, 1], [0, 2], 4).cooccurrence(top_words, window)


CASES = [
    (lambda: CodebookUsage(2**26, 3), "num_embeddings must be at most 22369621, got 67108864"),
    (lambda: CodeStatistics(0, 2), "num_embeddings must be at least 1, got 0"),
    (lambda: TopicClusters(0, 3), "num_topics must be at least 1, got 0"),
    (lambda: ReferenceCorpus([0, 1], [0], 4), "offsets must be (N + 1 >= 2,) and rise from 0 to the number of ids, 2"),
    (lambda: ReferenceCorpus([0, 1], [0, 3], 4), "offsets must"),
    (lambda: ReferenceCorpus([0, 1], [0, 2, 1, 2], 4), "offsets must"),
    (lambda: ReferenceCorpus([0, 4], [0, 2], 4), "ids must be in [-1, 4), got 0 to 4"),
    (lambda: ReferenceCorpus([0, -2], [0, 2], 4), "ids must be in [-1, 4), got -2 to 0"),
    (lambda: count([[0, 1]], 0), "window must be at least 1, got 0"),
    (lambda: count([0, 1], 2), "top_words must be (K, n >= 2) integers, got (2,)"),
    (lambda: count([[0, 4]]), "top_words must be in [0, 4), got 0 to 4"),
    (lambda: count([[-1, 1]]), "top_words must be in [0, 4), got -1 to 1"),
    (lambda: count([[0, 1], [2, 2]]), "top_words must be distinct in a topic, but a topic has a word twice"),
    (lambda: ReferenceCorpus.from_counts(np.eye(3)).cooccurrence([[0, 1]], 10), "which has no order, got 10"),
    (lambda: FrechetDistance("resnet"), "net must be one of inception, vgg"),
    (lambda: FrechetDistance("vgg").update(torch.rand(3, 32, 32), real=True), "got (3, 32, 32)"),
    (lambda: FrechetDistance("vgg").check_shape(4, 32, 32), "channels must be 1 or 3 for the Frechet distance, got 4"),
    (lambda: FrechetDistance("vgg").check_shape(3, 15, 40), "image_size must be at least 16 for the Frechet distance"),
    (lambda: FrechetDistance("vgg").compute(), "needs at least 2 images of each kind, got 0: set frechet=null"),
    (lambda: GenerationMetrics("vgg").compute(), "GenerationMetrics needs at least 6 images of each kind, got 0"),
    (lambda: GenerationMetrics(seed=-1), "seed must be at least 0, got -1"),
]


@pytest.mark.parametrize(("call", "message"), CASES)
def test_invalid_input_gives_a_message(call, message):
    with refused(message):
        call()


@pytest.mark.parametrize(
    "update",
    [
        *(lambda i=i: CodebookUsage(4).update(torch.tensor([0, i, 0])) for i in (4, 99)),
        *(lambda i=i: CodebookUsage(4, 3).update(torch.tensor([[0, 0, i]])) for i in (4, 5)),
        *(lambda i=i: CodeStatistics(8, 1, 2).update(torch.tensor([[i]]), zeros(1)) for i in (8, 99)),
        *(lambda i=i: CodeStatistics(8, 1, 2).update(zeros(1, 1), torch.tensor([i])) for i in (2, 50)),
        lambda: TopicClusters(4, 2).update(torch.eye(4), torch.tensor([0, 1, 2, 0])),
    ],
)
def test_indices_and_labels_out_of_range_are_errors(update):
    with pytest.raises((RuntimeError, IndexError, ValueError)):
        update()
