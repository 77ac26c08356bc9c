"""Overlap of topics against loops over the topics and their words."""

import itertools
import secrets

import numpy as np
import pytest

from vqlab.metrics.topics.words import (
    duplicate_topics,
    inverted_rbo,
    topic_diversity,
    topic_redundancy,
)


def draw(num_topics, n, vocab_size):
    rng = np.random.default_rng(secrets.randbelow(2**31))
    return np.stack([rng.choice(vocab_size, n, replace=False) for _ in range(num_topics)])


def rbo_by_hand(first, second, p):
    n = len(first)
    shared = [len(set(first[:d]) & set(second[:d])) for d in range(1, n + 1)]
    return shared[-1] / n * p**n + (1 - p) / p * sum(x / d * p**d for d, x in enumerate(shared, 1))


@pytest.mark.parametrize(("num_topics", "n", "vocab_size"), [(2, 2, 3), (7, 5, 9), (20, 10, 60), (30, 3, 1000)])
def test_figures_are_those_of_loops(num_topics, n, vocab_size):
    words = draw(num_topics, n, vocab_size)
    lists = words.tolist()
    assert topic_diversity(words) == len({word for topic in lists for word in topic}) / (num_topics * n)

    others = [np.mean([word in other for word in topic]) for topic, other in itertools.permutations(lists, 2)]
    assert topic_redundancy(words) == pytest.approx(np.mean(others))

    for p in (0.5, 0.9, 0.99):
        overlaps = [rbo_by_hand(*pair, p) for pair in itertools.combinations(lists, 2)]
        assert inverted_rbo(words, p) == pytest.approx(1 - np.mean(overlaps))

    for share in (0.01, 1 / n, 0.5, 1.0):
        pairs = {(i, j): len({*lists[i]} & {*lists[j]}) / n for i, j in itertools.combinations(range(num_topics), 2)}
        found = duplicate_topics(words, share)
        assert found == pytest.approx({pair: value for pair, value in pairs.items() if value >= share})
        assert list(found.values()) == sorted(found.values(), reverse=True)


@pytest.mark.parametrize("num_topics", [1, 2, 9])
def test_all_the_same(num_topics):
    words = np.tile(draw(1, 6, 100), (num_topics, 1))
    alone = num_topics == 1
    assert topic_diversity(words) == pytest.approx(1 / num_topics)
    assert topic_redundancy(words) == (0 if alone else 1)
    assert inverted_rbo(words) == pytest.approx(1 if alone else 0)
    assert duplicate_topics(words, 1.0) == dict.fromkeys(itertools.combinations(range(num_topics), 2), 1.0)
