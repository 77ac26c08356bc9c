"""Codebook usage against the formula in float64."""

import math

import pytest
import torch

from vqlab.errors import UserError
from vqlab.metrics.codes.usage import CodebookUsage


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
    assert usage.counts.tolist() == [[0, 0, 0, 0]]
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


@pytest.mark.parametrize("index", [4, 5, 99])
@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("num_codebooks", [1, 3])
def test_an_index_outside_the_codebook_is_an_error(num_codebooks, place, index):
    indices = torch.zeros(5, 3, dtype=torch.int64)
    indices[2, place] = index
    with pytest.raises((RuntimeError, ValueError)):
        CodebookUsage(4, num_codebooks).update(indices)


def test_negative_indices_do_not_count():
    usage = CodebookUsage(4)
    usage.update(torch.tensor([0, -1, 1, -1, -1]))
    assert usage.counts.tolist() == [[1, 1, 0, 0]]
    usage.update(torch.tensor([-1]))
    assert figures(usage) == pytest.approx({"perplexity": 2.0, "codebook_usage": 0.5})


@pytest.mark.parametrize("shape", [(6, 3), (2, 5, 4, 3)])
def test_several_codebooks_are_counted_apart(shape):
    indices = torch.randint(7, shape, generator=torch.Generator().manual_seed(0))
    indices[..., 1] %= 2
    indices[0, ..., 2] = -1
    usage = CodebookUsage(7, 3)
    for part in indices.split(2):
        usage.update(part)
    columns = [[i for i in indices[..., book].flatten().tolist() if i >= 0] for book in range(3)]
    assert usage.counts.tolist() == [[column.count(code) for code in range(7)] for column in columns]
    alone = [expected(column, 7) for column in columns]
    means = {name: sum(figure[name] for figure in alone) / 3 for name in alone[0]}
    assert figures(usage) == pytest.approx(means, rel=1e-5)


def test_too_many_codes_are_refused():
    with pytest.raises(UserError, match=r"3 codebooks of 67108864 codes"):
        CodebookUsage(2**26, 3)
