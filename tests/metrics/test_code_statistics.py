"""The divergences against numpy in float64, and their expectation by chance against simulations."""

import itertools
import math
import secrets

import numpy as np
import pytest
import torch

from vqlab.metrics.codes import CodeStatistics, chance_divergence, divergence, top_k_overlap


def figures(statistics):
    computed = statistics.compute()
    assert all(value.shape == () and value.dtype == torch.float32 for value in computed.values())
    return {name: value.item() for name, value in computed.items()}


def entropy(shares):
    return -sum(share * math.log2(share) for share in shares if share)


def divergence_by_hand(groups, num_embeddings):
    """JS of lists of codes, and what chance leaves of it: the entropies' shortfalls, each by its own formula."""
    groups = [codes for codes in groups if codes]
    if not groups:
        return 0.0, 0.0
    shares = np.array([[codes.count(k) / len(codes) for k in range(num_embeddings)] for codes in groups], np.float64)
    js = entropy(shares.mean(0)) - np.mean([entropy(row) for row in shares])
    in_use = len(set(itertools.chain(*groups)))
    equivalent = len(groups) ** 2 / sum(1 / len(codes) for codes in groups)
    shortfalls = [(in_use - 1) / (2 * len(codes) * math.log(2)) for codes in groups]
    return js, np.mean(shortfalls) - (in_use - 1) / (2 * equivalent * math.log(2))


def overlap_by_hand(groups, num_embeddings, top_k):
    tops = [set(sorted(set(codes), key=lambda code: (-codes.count(code), code))[:top_k]) for codes in groups if codes]
    shares = [len(one & other) / top_k for one, other in itertools.combinations(tops, 2)]
    return np.mean(shares) if shares else 0.0


def by_hand(indices, label, num_embeddings, num_classes=0, top_k=16):
    positions = [[code for code in column if code >= 0] for column in indices.T.tolist()]
    expected = {}
    expected["js_position"], expected["chance_js_position"] = divergence_by_hand(positions, num_embeddings)
    if num_classes:
        classes = [[c for c in indices[label == name].flatten().tolist() if c >= 0] for name in range(num_classes)]
        expected["js_class"], expected["chance_js_class"] = divergence_by_hand(classes, num_embeddings)
        if top_k <= num_embeddings:
            expected["top_k_overlap"] = overlap_by_hand(classes, num_embeddings, top_k)
    return expected


def draw(num_images, num_embeddings, num_positions, num_classes, seed):
    """Codes whose distribution depends on position and class, with many ties."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(-1, max(1, num_classes), (num_images,), generator=generator)
    powers = 1 + (label[:, None] + torch.arange(num_positions)).abs() % 3
    indices = torch.rand(num_images, num_positions, generator=generator) ** powers * num_embeddings
    return indices.long(), label


@pytest.mark.parametrize(
    ("num_images", "num_embeddings", "num_positions", "num_classes", "top_k"),
    [
        (40, 7, 5, 3, 4),
        (500, 64, 9, 10, 16),
        (30, 50, 4, 20, 50),  # classes that use fewer codes than top_k, and some without any
        (20, 8, 3, 2, 9),  # no overlap
        (20, 8, 3, 0, 4),  # no classes
        (20, 8, 1, 1, 4),  # nothing to compare
        (9, 1, 3, 2, 1),
        (1, 5, 4, 3, 2),
    ],
)
def test_they_equal_numpys(num_images, num_embeddings, num_positions, num_classes, top_k):
    seed = secrets.randbelow(2**31)  # new numbers at each run
    indices, label = draw(num_images, num_embeddings, num_positions, num_classes, seed)
    indices[::5, 0] = -1  # does not count
    statistics = CodeStatistics(num_embeddings, num_positions, num_classes, top_k)
    for codes, names in zip(indices.split(7), label.split(7), strict=True):
        statistics.update(codes, names)
    expected = by_hand(indices, label, num_embeddings, num_classes, top_k)
    assert figures(statistics) == pytest.approx(expected, rel=1e-5, abs=1e-9), seed


def test_small_divergences_keep_their_precision():
    """A difference of entropies in float32 would be wrong in the third digit here."""
    counts = torch.full((2, 1024), 10**6)
    counts[0, ::2] += 1000
    counts[1, 1::2] += 1000
    shares = (counts.double() / counts.sum(1, keepdim=True)).numpy()
    expected = (shares * np.log2(shares / shares.mean(0))).sum(1).mean()
    assert divergence(counts).item() == pytest.approx(expected, rel=1e-6)


def test_of_equally_frequent_codes_the_smaller_come_first_and_unused_ones_never():
    assert top_k_overlap(torch.tensor([[2, 2, 2, 2], [0, 2, 2, 1]]), 2).item() == 0.5  # {0, 1} and {1, 2}
    assert top_k_overlap(torch.tensor([[0, 0, 0, 5], [0, 0, 5, 0]]), 2).item() == 0.0  # {3} and {2}, not 0 as well
    assert top_k_overlap(torch.tensor([[1, 1, 1], [0, 0, 0], [1, 1, 1]]), 3).item() == 1.0


def test_images_without_a_label_and_negative_indices():
    indices = torch.tensor([[0, 1], [2, 3], [0, 0], [-1, -1]])
    statistics = CodeStatistics(4, 2, num_classes=2, top_k=1)
    assert set(figures(statistics).values()) == {0.0}
    statistics.update(indices, torch.tensor([1, -1, 0, 0]))
    assert statistics.position_counts.tolist() == [[2, 0, 1, 0], [1, 1, 0, 1]]
    assert statistics.class_counts.tolist() == [[2, 0, 0, 0], [1, 1, 0, 0]]
    without = CodeStatistics(4, 2)
    without.update(indices, torch.tensor([1, -1, 99, 0]))
    assert torch.equal(without.position_counts, statistics.position_counts)


@pytest.mark.parametrize("sizes", [(8,), (8, 16, 80)], ids=["equal", "unequal"])
@pytest.mark.parametrize("num_groups", [3, 12])
@pytest.mark.parametrize("shape", ["uniform", "zipf", "dirichlet", "partly unused"])
def test_chance_is_what_equal_distributions_give(shape, num_groups, sizes):
    """Histograms of several times K codes each: on average within 15 %, however skewed the distribution is."""
    rng, num_embeddings = np.random.default_rng(1), 100
    probs = {
        "uniform": np.ones(num_embeddings),
        "zipf": 1 / np.arange(1, num_embeddings + 1),
        "dirichlet": np.random.default_rng(0).dirichlet(np.ones(num_embeddings)),
        "partly unused": np.arange(num_embeddings) % 2,
    }[shape]
    probs = probs / probs.sum()
    drawn = []
    for _ in range(100):  # the mean of as many spreads by some 1 %
        n = [num_embeddings * sizes[group % len(sizes)] for group in range(num_groups)]
        counts = torch.from_numpy(rng.multinomial(n, np.broadcast_to(probs, (num_groups, num_embeddings))))
        drawn.append((divergence(counts).item(), chance_divergence(counts).item()))
    found, chance = np.mean(drawn, 0)
    assert found == pytest.approx(chance, rel=0.15)


def test_equal_histograms_are_not_below_zero():
    """Rounding alone would leave some of these a little below."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        counts = torch.randint(1, 100, (1, 1000), generator=generator).repeat(7, 1)
        assert 0 <= divergence(counts).item() < 1e-12
