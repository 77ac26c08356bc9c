"""All metrics of topics at once, dead topics, and matching with planted ones."""

import itertools
import math

import numpy as np
import pytest
import torch

from tests.helpers.matched_topics import matched_topics
from vqlab.metrics.topics.coherence import coherences
from vqlab.metrics.topics.cooccurrence import ReferenceCorpus
from vqlab.metrics.topics.words import (
    dead_topics,
    inverted_rbo,
    top_word_ids,
    topic_diversity,
    topic_figures,
    topic_redundancy,
)

OVERLAP = {"topic_diversity": topic_diversity, "topic_redundancy": topic_redundancy, "inverted_rbo": inverted_rbo}


def corpus():
    rng = np.random.default_rng(0)
    return rng.integers(20, size=900), np.arange(10) * 100


def test_figures_are_the_means_of_their_functions():
    ids, offsets = corpus()
    reference = ReferenceCorpus(ids, offsets, 20)
    words = top_word_ids(torch.rand(6, 20), n=5)
    per_topic = coherences(words, reference)
    expected = {name: values.mean() for name, values in per_topic.items()}
    expected |= {name: figure(words) for name, figure in OVERLAP.items()}
    for given in (words, words.tolist(), torch.from_numpy(words)):
        found = topic_figures(given, reference)
        assert found == expected
        assert all(type(value) is float and math.isfinite(value) for value in found.values())


def test_top_words_are_sorted_and_ties_are_in_order():
    topics = torch.tensor([[0.1, 0.3, 0.1, 0.3, 0.2], [0.2] * 5])
    assert top_word_ids(topics, 5).tolist() == [[1, 3, 4, 0, 2], [0, 1, 2, 3, 4]]
    assert top_word_ids(topics.numpy(), 2).tolist() == [[1, 3], [0, 1]]


def test_dead_topics_are_named_with_their_reason():
    frequencies = torch.arange(1, 101)
    background = frequencies / frequencies.sum()
    generator = torch.Generator().manual_seed(0)
    near = background * (1 + 0.05 * torch.rand(100, generator=generator))
    flat = 1 + 0.05 * torch.rand(100, generator=generator)
    alive = torch.zeros(100).index_fill(0, torch.arange(10), 0.1)
    topics = torch.stack([alive, near / near.sum(), alive.flip(0), flat / flat.sum(), background])
    same = "equal to the frequencies of the corpus"
    assert dead_topics(topics, frequencies) == {1: same, 3: "uniform", 4: same}
    nowhere = "dominant in no document"
    found = dead_topics(topics, frequencies, torch.tensor([4, 0, 0, 1, 1]))
    assert found == {1: same, 2: nowhere, 3: "uniform", 4: same}
    assert dead_topics(topics, frequencies, tolerance=1e-5) == {4: same}


def test_planted_topics_are_found_in_any_order():
    generator = torch.Generator().manual_seed(0)
    true = torch.rand(7, 50, generator=generator) ** 8
    order = torch.randperm(7, generator=generator)
    noise = 0.01 * torch.rand(7, 50, generator=generator)
    matched = matched_topics(3 * (true + noise)[order], true)
    assert order[matched.index].tolist() == list(range(7))
    assert matched.cosine.min() > 0.98
    assert matched_topics(true, true).cosine == pytest.approx(np.ones(7))


@pytest.mark.parametrize("more", [0, 2])
def test_the_assignment_is_the_best_of_all(more):
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        found, true = torch.rand(4 + more, 6, generator=generator), torch.rand(4, 6, generator=generator)
        cosine = torch.nn.functional.cosine_similarity(true[:, None], found[None], dim=2).tolist()
        best = max(
            sum(cosine[i][j] for i, j in enumerate(order)) for order in itertools.permutations(range(4 + more), 4)
        )
        matched = matched_topics(found, true)
        assert matched.cosine.sum() == pytest.approx(best, rel=1e-6)
        assert len(set(matched.index.tolist())) == 4
        np.testing.assert_allclose(matched.cosine, [cosine[i][j] for i, j in enumerate(matched.index)], rtol=1e-5)


def test_word_counts_give_the_figures_of_documents():
    ids, offsets = corpus()
    bags = np.stack([np.bincount(ids[a:b], minlength=20) for a, b in itertools.pairwise(offsets)])
    words = top_word_ids(np.random.default_rng(1).random((4, 20)), n=5)
    found = topic_figures(words, ReferenceCorpus.from_counts(bags))
    assert found.keys() == {"npmi_doc", "umass", *OVERLAP}
    whole = topic_figures(words, ReferenceCorpus(ids, offsets, 20))
    assert found == {name: whole[name] for name in found}
