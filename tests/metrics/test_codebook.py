"""Codebook usage against the formula in float64."""

import math

import pytest
import torch

from vqlab.metrics.codebook import CodebookUsage


def expected(indices, num_embeddings):
    counts = [0] * num_embeddings
    for index in indices:
        counts[index] += 1
    shares = [count / len(indices) for count in counts if count]
    return {
        "perplexity": math.exp(-sum(p * math.log(p) for p in shares)),
        "codebook_usage": len(shares) / num_embeddings,
    }


def figures(usage):
    return {name: value.item() for name, value in usage.compute().items()}


@pytest.mark.parametrize("num_embeddings", [1, 7, 512, 16384])
@pytest.mark.parametrize("power", [1, 4])
def test_formula(num_embeddings, power):
    generator = torch.Generator().manual_seed(num_embeddings)
    shape = (5, 3, 8, 8)
    indices = (torch.rand(shape, generator=generator) ** power * num_embeddings).long()
    usage = CodebookUsage(num_embeddings)
    for part in indices:
        usage.update(part)
    assert figures(usage) == pytest.approx(expected(indices.flatten().tolist(), num_embeddings), rel=1e-5)


def test_the_counts_are_summed_before_the_figures_are_taken():
    """Two batches that use different halves: each alone reports half, together they use all."""
    usage, alone = CodebookUsage(8), CodebookUsage(8)
    usage.update(torch.arange(4))
    alone.update(torch.arange(4))
    usage.update(torch.arange(4, 8))
    assert figures(alone) == pytest.approx({"perplexity": 4.0, "codebook_usage": 0.5})
    assert figures(usage) == pytest.approx({"perplexity": 8.0, "codebook_usage": 1.0})


def test_reset_forgets_and_forward_accumulates():
    usage = CodebookUsage(4)
    assert {k: v.item() for k, v in usage(torch.tensor([0, 1])).items()} == pytest.approx(
        {"perplexity": 2.0, "codebook_usage": 0.5}
    )
    usage(torch.tensor([[2], [3]]))
    assert figures(usage) == pytest.approx({"perplexity": 4.0, "codebook_usage": 1.0})
    usage.reset()
    assert usage.counts.tolist() == [0, 0, 0, 0]
    usage.update(torch.tensor([3, 3]))
    assert figures(usage) == pytest.approx({"perplexity": 1.0, "codebook_usage": 0.25})


def test_nothing_seen():
    usage = CodebookUsage(4)
    usage.update(torch.zeros(0, dtype=torch.int64))
    assert figures(usage) == {"perplexity": 1.0, "codebook_usage": 0.0}


def test_many_codes_seen_evenly():
    usage = CodebookUsage(2**16)
    usage.update(torch.arange(2**16).repeat(3))
    assert figures(usage) == pytest.approx({"perplexity": 2**16, "codebook_usage": 1.0}, rel=1e-5)


@pytest.mark.parametrize("index", [-1, 4, 99])
def test_an_index_outside_the_codebook_is_an_error(index):
    with pytest.raises((RuntimeError, ValueError)):
        CodebookUsage(4).update(torch.tensor([0, index]))
