"""Codebook usage, proposal entropy and unigram code length against formulas in float64."""

import math

import numpy as np
import pytest
import torch

from vqlab.metrics.codes import CodebookUsage, ProposalEntropy, unigram_bits


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


@pytest.mark.parametrize("num_embeddings", [1, 7, 16384])
@pytest.mark.parametrize("power", [1, 4])
def test_usage(num_embeddings, power):
    generator = torch.Generator().manual_seed(num_embeddings)
    shape = (5, 3, 8, 8)
    indices = (torch.rand(shape, generator=generator) ** power * num_embeddings).long()
    usage = CodebookUsage(num_embeddings)
    for part in indices:
        usage.update(part)
    assert figures(usage) == pytest.approx(expected(indices.flatten().tolist(), num_embeddings), rel=1e-5)


def test_usage_accumulates_until_reset():
    usage = CodebookUsage(4)
    assert {k: v.item() for k, v in usage(torch.tensor([0, 1])).items()} == pytest.approx(
        {"perplexity": 2.0, "codebook_usage": 0.5}
    )
    usage(torch.tensor([[2], [3]]))
    assert figures(usage) == pytest.approx({"perplexity": 4.0, "codebook_usage": 1.0})
    usage.reset()
    assert figures(usage) == {"perplexity": 1.0, "codebook_usage": 0.0}
    assert usage.counts.tolist() == [[0, 0, 0, 0]]
    usage.update(torch.tensor([3, 3]))
    assert figures(usage) == pytest.approx({"perplexity": 1.0, "codebook_usage": 0.25})


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
    means = {name: sum(figure[name] for figure in alone) / 3 for name in alone[0]}
    assert figures(usage) == pytest.approx(means, rel=1e-5)


def entropies(q):
    """Site entropy and mutual information of probabilities (N, P, K)."""

    def entropy(p):
        return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(-1)

    return entropy(q).mean(), (entropy(q.mean(0)) - entropy(q).mean(0)).mean()


def test_entropy_over_batches_of_unequal_size():
    log_q = (3 * torch.randn(40, 5, 7)).log_softmax(-1)
    log_q[:3, 0] = torch.tensor([1.0, 0, 0, 0, 0, 0, 0]).log()
    metric = ProposalEntropy(5, 7)
    for part in log_q.split([25, 15]):
        metric.update(part)
    found = metric.compute()
    entropy, information = entropies(log_q.double().exp().numpy())
    assert found["site_entropy"].item() == pytest.approx(entropy, rel=1e-5)
    assert found["mutual_information"].item() == pytest.approx(information, rel=1e-5)


def test_entropy_of_uninformative_and_of_perfect_codes():
    nothing, everything = ProposalEntropy(1, 4), ProposalEntropy(1, 4)
    nothing.update(torch.full((8, 1, 4), 0.25).log())
    everything.update(torch.eye(4)[:, None].log())
    assert nothing.compute()["mutual_information"].item() == pytest.approx(0, abs=1e-6)
    assert everything.compute()["mutual_information"].item() == pytest.approx(np.log(4))
    assert everything.compute()["site_entropy"].item() == 0


def test_unigram_bits():
    tokens = torch.randint(5, (200, 3), generator=torch.Generator().manual_seed(0))
    counts = torch.stack([torch.bincount(column, minlength=5) for column in tokens.T])
    new = torch.randint(5, (40, 3), generator=torch.Generator().manual_seed(1))
    bits = [
        np.log2(205 / (1 + (tokens[:, i] == code).sum().item())) for row in new.tolist() for i, code in enumerate(row)
    ]
    assert unigram_bits(counts.int(), new).item() == pytest.approx(np.mean(bits), rel=1e-6)


def test_usage_ignores_negative_indices():
    usage = CodebookUsage(4)
    usage.update(torch.tensor([0, -1, 1, -1, -1]))
    assert usage.counts.tolist() == [[1, 1, 0, 0]]
    usage.update(torch.tensor([-1]))
    assert figures(usage) == pytest.approx({"perplexity": 2.0, "codebook_usage": 0.5})


def test_unigram_bits_without_counts():
    assert unigram_bits(torch.zeros(4, 32, dtype=torch.int32), torch.randint(32, (7, 4))).item() == pytest.approx(5)
