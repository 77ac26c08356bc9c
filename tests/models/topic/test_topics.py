"""Topics that begin as those of NMF."""

import torch

from tests.helpers.planted import Planted
from vqlab.metrics.topics.words import matched_topics
from vqlab.models.topic import topics as module
from vqlab.models.topic.topics import nmf_topics


def test_nmf_finds_planted_topics_and_leaves_no_word_without_probability():
    data = Planted(num_topics=6, vocab=200, num_documents=800)
    topics = nmf_topics(data.train_counts(), 6)
    torch.testing.assert_close(topics.sum(1), torch.ones(6))
    assert topics.min() > 0
    assert matched_topics(topics, data.true).cosine.min() > 0.7


def test_of_many_documents_a_seeded_choice_is_read(monkeypatch):
    counts = Planted(num_topics=3, vocab=60, num_documents=300).train_counts()
    monkeypatch.setattr(module, "MAX_DOCUMENTS", 100)
    first, second, other = (nmf_topics(counts, 3, seed) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.allclose(first, other)
