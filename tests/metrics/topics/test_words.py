"""Metrics of top words against loops over the topics and their words, dead topics, and the topic table."""

import itertools
import math
import secrets

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from tests.helpers.a_topic_sheet import sheet
from vqlab.metrics import ReferenceCorpus, coherences
from vqlab.metrics.topics.words import (
    dead_topics,
    duplicate_topics,
    inverted_rbo,
    top_word_ids,
    topic_diversity,
    topic_figures,
    topic_places,
    topic_redundancy,
)

OVERLAP = {"topic_diversity": topic_diversity, "topic_redundancy": topic_redundancy, "inverted_rbo": inverted_rbo}


def draw(num_topics, n, vocab_size):
    rng = np.random.default_rng(secrets.randbelow(2**31))
    return np.stack([rng.choice(vocab_size, n, replace=False) for _ in range(num_topics)])


def rbo_by_hand(first, second, p):
    n = len(first)
    shared = [len(set(first[:d]) & set(second[:d])) for d in range(1, n + 1)]
    return shared[-1] / n * p**n + (1 - p) / p * sum(x / d * p**d for d, x in enumerate(shared, 1))


@pytest.mark.parametrize(("num_topics", "n", "vocab_size"), [(2, 2, 3), (7, 5, 9), (20, 10, 60), (30, 3, 1000)])
def test_overlaps_equal_loops(num_topics, n, vocab_size):
    words = draw(num_topics, n, vocab_size)
    lists = words.tolist()
    assert topic_diversity(words) == len({word for topic in lists for word in topic}) / (num_topics * n)

    others = [np.mean([word in other for word in topic]) for topic, other in itertools.permutations(lists, 2)]
    assert topic_redundancy(words) == pytest.approx(np.mean(others))

    for p in (0.5, 0.9, 0.99):
        overlaps = [rbo_by_hand(*pair, p) for pair in itertools.combinations(lists, 2)]
        assert inverted_rbo(words, p) == pytest.approx(1 - np.mean(overlaps))

    for minimum in (0.01, 1 / n, 0.5, 1.0):
        pairs = {(i, j): len({*lists[i]} & {*lists[j]}) / n for i, j in itertools.combinations(range(num_topics), 2)}
        found = duplicate_topics(words, minimum)
        assert found == pytest.approx({pair: value for pair, value in pairs.items() if value >= minimum})
        assert list(found.values()) == sorted(found.values(), reverse=True)


@pytest.mark.parametrize("num_topics", [1, 2, 9])
def test_overlaps_of_equal_topics(num_topics):
    words = np.tile(draw(1, 6, 100), (num_topics, 1))
    alone = num_topics == 1
    assert topic_diversity(words) == pytest.approx(1 / num_topics)
    assert topic_redundancy(words) == (0 if alone else 1)
    assert inverted_rbo(words) == pytest.approx(1 if alone else 0)
    assert duplicate_topics(words, 1.0) == dict.fromkeys(itertools.combinations(range(num_topics), 2), 1.0)


def corpus():
    rng = np.random.default_rng(0)
    return rng.integers(20, size=900), np.arange(10) * 100


def test_topic_figures_are_means_over_topics():
    reference = ReferenceCorpus(*corpus(), 20)
    words = top_word_ids(torch.rand(6, 20), n=5)
    expected = {name: values.mean() for name, values in coherences(words, reference).items()}
    expected |= {name: metric(words) for name, metric in OVERLAP.items()}
    for given in (words, words.tolist(), torch.from_numpy(words)):
        found = topic_figures(given, reference)
        assert found == expected
        assert all(type(value) is float and math.isfinite(value) for value in found.values())


def test_topic_figures_of_word_counts_are_those_of_documents():
    ids, offsets = corpus()
    bags = np.stack([np.bincount(ids[a:b], minlength=20) for a, b in itertools.pairwise(offsets)])
    words = top_word_ids(np.random.default_rng(1).random((4, 20)), n=5)
    found = topic_figures(words, ReferenceCorpus.from_counts(bags))
    assert found.keys() == {"npmi_doc", "umass", *OVERLAP}
    whole = topic_figures(words, ReferenceCorpus(ids, offsets, 20))
    assert found == {name: whole[name] for name in found}


def test_top_words_are_sorted_by_probability_then_by_id():
    topics = torch.tensor([[0.1, 0.3, 0.1, 0.3, 0.2], [0.2] * 5])
    assert top_word_ids(topics, 5).tolist() == [[1, 3, 4, 0, 2], [0, 1, 2, 3, 4]]
    assert top_word_ids(topics.numpy(), 2).tolist() == [[1, 3], [0, 1]]


def test_dead_topics_have_a_reason():
    frequencies = torch.arange(1, 101)
    background = frequencies / frequencies.sum()
    generator = torch.Generator().manual_seed(0)
    near = background * (1 + 0.05 * torch.rand(100, generator=generator))
    flat = 1 + 0.05 * torch.rand(100, generator=generator)
    alive = torch.zeros(100).index_fill(0, torch.arange(10), 0.1)
    topics = torch.stack([alive, near / near.sum(), alive.flip(0), flat / flat.sum(), background])
    same = "equal to the frequencies of the corpus"
    assert dead_topics(topics, frequencies) == {1: same, 3: "uniform", 4: same}
    found = dead_topics(topics, frequencies, torch.tensor([4, 0, 0, 1, 1]))
    assert found == {1: same, 2: "dominant in no document", 3: "uniform", 4: same}
    assert dead_topics(topics, frequencies, tolerance=1e-5) == {4: same}


def test_three_topics_have_their_jensen_shannon_distances():
    topics = torch.rand(3, 12, dtype=torch.float64).softmax(1)
    topics[0, :6] = 0
    topics /= topics.sum(1, keepdim=True)
    places = topic_places(topics)
    for i, j in itertools.combinations(range(3), 2):
        expected = jensenshannon(topics[i].numpy(), topics[j].numpy())
        np.testing.assert_allclose(np.linalg.norm(places[i] - places[j]), expected, rtol=1e-6)


def test_topic_table_omits_unknown_columns():
    columns, rows = sheet().table()
    assert columns == ["topic", "documents", "npmi_doc", "words", "remark"]
    assert rows[1] == [0, 0, -0.5, "hat mat", "dominant in no document"]
    assert sheet(documents=None, coherence=None).table()[0] == ["topic", "words", "remark"]
