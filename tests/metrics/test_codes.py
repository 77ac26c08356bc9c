"""Metrics of codes against formulas in float64, and their chance level against simulations."""

import itertools
import math
import secrets
from collections import Counter

import numpy as np
import pytest
import torch

from vqlab.metrics.codes import (
    CodebookUsage,
    CodeStatistics,
    ProposalEntropy,
    chance_divergence,
    divergence,
    pairwise_divergence,
    pairwise_overlap,
    top_k_overlap,
    unigram_bits,
)


def entropy(probs):
    return -sum(p * math.log2(p) for p in probs if p)


def expected(indices, num_embeddings):
    fractions = [count / len(indices) for count in Counter(indices).values()]
    return {"perplexity": 2 ** entropy(fractions), "codebook_usage": len(fractions) / num_embeddings}


def values_of(metric):
    computed = metric.compute()
    assert all(value.shape == () and value.dtype == torch.float32 for value in computed.values())
    return {name: value.item() for name, value in computed.items()}


@pytest.mark.parametrize("num_embeddings", [1, 7, 16384])
@pytest.mark.parametrize("power", [1, 4])
def test_usage_equals_formulas(num_embeddings, power):
    generator = torch.Generator().manual_seed(num_embeddings)
    indices = (torch.rand(5, 3, 8, 8, generator=generator) ** power * num_embeddings).long()
    usage = CodebookUsage(num_embeddings)
    for part in indices:
        usage.update(part)
    assert values_of(usage) == pytest.approx(expected(indices.flatten().tolist(), num_embeddings), rel=1e-5)


def test_usage_accumulates_until_reset_and_ignores_negative_indices():
    usage = CodebookUsage(4)
    for indices, perplexity, used in [([0, -1, 1, -1], 2.0, 0.5), ([-1], 2.0, 0.5), ([[2], [3]], 4.0, 1.0)]:
        usage(torch.tensor(indices))
        assert values_of(usage) == pytest.approx({"perplexity": perplexity, "codebook_usage": used})
    usage.reset()
    assert values_of(usage) == {"perplexity": 1.0, "codebook_usage": 0.0}
    assert usage.counts.tolist() == [[0, 0, 0, 0]]
    usage.update(torch.tensor([3, 3]))
    assert values_of(usage) == pytest.approx({"perplexity": 1.0, "codebook_usage": 0.25})


@pytest.mark.parametrize("shape", [(6, 3), (2, 5, 4, 3)])
def test_usage_of_several_codebooks(shape):
    indices = torch.randint(7, shape, generator=torch.Generator().manual_seed(0))
    indices[..., 1] %= 2
    indices[0, ..., 2] = -1
    usage = CodebookUsage(7, 3)
    for part in indices.split(2):
        usage.update(part)
    columns = [[i for i in indices[..., book].flatten().tolist() if i >= 0] for book in range(3)]
    assert usage.counts.tolist() == [[column.count(code) for code in range(7)] for column in columns]
    alone = [expected(column, 7) for column in columns]
    means = {name: sum(values[name] for values in alone) / 3 for name in alone[0]}
    assert values_of(usage) == pytest.approx(means, rel=1e-5)


def test_proposal_entropy_of_unequal_batches_equals_formulas():
    log_q = (3 * torch.randn(40, 5, 7)).log_softmax(-1)
    log_q[:3, 0] = torch.tensor([1.0, 0, 0, 0, 0, 0, 0]).log()
    metric = ProposalEntropy(5, 7)
    for part in log_q.split([25, 15]):
        metric.update(part)

    def entropy(p):
        return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(-1)

    q = log_q.double().exp().numpy()
    information = (entropy(q.mean(0)) - entropy(q).mean(0)).mean()
    formulas = {"site_entropy": entropy(q).mean(), "mutual_information": information}
    assert values_of(metric) == pytest.approx(formulas, rel=1e-5)


def test_proposal_entropy_of_uninformative_and_of_perfect_codes():
    uninformative, perfect = ProposalEntropy(1, 4), ProposalEntropy(1, 4)
    uninformative.update(torch.full((8, 1, 4), 0.25).log())
    perfect.update(torch.eye(4)[:, None].log())
    assert values_of(uninformative)["mutual_information"] == pytest.approx(0, abs=1e-6)
    assert values_of(perfect) == {"mutual_information": pytest.approx(np.log(4)), "site_entropy": 0}


def test_unigram_bits_equal_formula():
    tokens = torch.randint(5, (200, 3), generator=torch.Generator().manual_seed(0))
    counts = torch.stack([torch.bincount(column, minlength=5) for column in tokens.T])
    new = torch.randint(5, (40, 3), generator=torch.Generator().manual_seed(1))
    bits = [np.log2(205 / (1 + (tokens[:, i] == row[i]).sum().item())) for row in new for i in range(3)]
    assert unigram_bits(counts.int(), new).item() == pytest.approx(np.mean(bits), rel=1e-6)
    assert unigram_bits(torch.zeros(4, 32, dtype=torch.int32), torch.randint(32, (7, 4))).item() == pytest.approx(5)


def divergence_by_hand(groups, num_embeddings):
    """JS of lists of codes, and what chance leaves of it: the entropies' shortfalls, each by its own formula."""
    groups = [codes for codes in groups if codes]
    if not groups:
        return 0.0, 0.0
    fractions = np.array([[codes.count(k) / len(codes) for k in range(num_embeddings)] for codes in groups], np.float64)
    js = entropy(fractions.mean(0)) - np.mean([entropy(row) for row in fractions])
    in_use = len(set(itertools.chain(*groups)))
    equivalent = len(groups) ** 2 / sum(1 / len(codes) for codes in groups)
    shortfalls = [(in_use - 1) / (2 * len(codes) * math.log(2)) for codes in groups]
    return js, np.mean(shortfalls) - (in_use - 1) / (2 * equivalent * math.log(2))


def overlap_by_hand(groups, num_embeddings, top_k):
    tops = [set(sorted(set(codes), key=lambda code: (-codes.count(code), code))[:top_k]) for codes in groups if codes]
    fractions = [len(one & other) / top_k for one, other in itertools.combinations(tops, 2)]
    return np.mean(fractions) if fractions else 0.0


def test_pairwise_matrices_equal_scipy_and_sets():
    jensenshannon = pytest.importorskip("scipy.spatial.distance").jensenshannon
    counts = torch.randint(0, 6, (5, 40))
    matrix, overlap = pairwise_divergence(counts), pairwise_overlap(counts, 7)
    tops = [set(counts[i].argsort(descending=True, stable=True)[:7].tolist()) for i in range(5)]
    for i, j in itertools.product(range(5), repeat=2):
        assert matrix[i, j].item() == pytest.approx(jensenshannon(counts[i], counts[j], base=2) ** 2, abs=1e-9)
        assert overlap[i, j].item() == pytest.approx(len(tops[i] & tops[j]) / 7)


def test_pairwise_chance_level_is_that_of_equal_distributions():
    probs = torch.rand(30)
    drawn = [torch.multinomial(probs, 20_000, replacement=True) for _ in range(12)]
    matrix = pairwise_divergence(torch.stack([torch.bincount(codes, minlength=30) for codes in drawn]))
    assert (matrix.sum() / (12 * 11)).item() == pytest.approx(29 / (2 * math.log(2)) / 20_000 / 2, rel=0.15)


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
def test_code_statistics_equal_numpy(num_images, num_embeddings, num_positions, num_classes, top_k):
    seed = secrets.randbelow(2**31)  # new numbers at each run
    indices, label = draw(num_images, num_embeddings, num_positions, num_classes, seed)
    indices[::5, 0] = -1  # does not count
    statistics = CodeStatistics(num_embeddings, num_positions, num_classes, top_k)
    for codes, names in zip(indices.split(7), label.split(7), strict=True):
        statistics.update(codes, names)
    expected = by_hand(indices, label, num_embeddings, num_classes, top_k)
    assert values_of(statistics) == pytest.approx(expected, rel=1e-5, abs=1e-9), seed


def test_small_divergences_are_precise():
    counts = torch.full((2, 1024), 10**6)
    counts[0, ::2] += 1000
    counts[1, 1::2] += 1000
    fractions = (counts.double() / counts.sum(1, keepdim=True)).numpy()
    expected = (fractions * np.log2(fractions / fractions.mean(0))).sum(1).mean()
    assert divergence(counts).item() == pytest.approx(expected, rel=1e-6)


def test_top_k_overlap_prefers_smaller_codes_and_ignores_unused_ones():
    assert top_k_overlap(torch.tensor([[2, 2, 2, 2], [0, 2, 2, 1]]), 2).item() == 0.5  # {0, 1} and {1, 2}
    assert top_k_overlap(torch.tensor([[0, 0, 0, 5], [0, 0, 5, 0]]), 2).item() == 0.0  # {3} and {2}, not 0 as well
    assert top_k_overlap(torch.tensor([[1, 1, 1], [0, 0, 0], [1, 1, 1]]), 3).item() == 1.0


def test_code_statistics_ignore_unknown_labels_and_negative_indices():
    indices = torch.tensor([[0, 1], [2, 3], [0, 0], [-1, -1]])
    statistics = CodeStatistics(4, 2, num_classes=2, top_k=1)
    assert set(values_of(statistics).values()) == {0.0}
    statistics.update(indices, torch.tensor([1, -1, 0, 0]))
    assert statistics.position_counts.tolist() == [[2, 0, 1, 0], [1, 1, 0, 1]]
    assert statistics.class_counts.tolist() == [[2, 0, 0, 0], [1, 1, 0, 0]]
    without = CodeStatistics(4, 2)
    without.update(indices, torch.tensor([1, -1, 99, 0]))
    assert torch.equal(without.position_counts, statistics.position_counts)


@pytest.mark.parametrize("sizes", [(8,), (8, 16, 80)], ids=["equal", "unequal"])
@pytest.mark.parametrize("num_groups", [3, 12])
@pytest.mark.parametrize("shape", ["uniform", "zipf", "dirichlet", "partly unused"])
def test_chance_divergence_equals_simulations(shape, num_groups, sizes):
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


def test_divergence_of_equal_histograms_is_not_negative():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        counts = torch.randint(1, 100, (1, 1000), generator=generator).repeat(7, 1)
        assert 0 <= divergence(counts).item() < 1e-12
