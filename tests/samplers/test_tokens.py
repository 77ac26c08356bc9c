"""Token sampling: filters against brute force, frequencies against probabilities, the guidance formula."""

import itertools

import pytest
import torch

from tests.helpers.refusal import refused
from vqlab.nn import Transformer
from vqlab.samplers.tokens import draw, generate, guide, restrict

K, L = 5, 3


def network(**sizes):
    torch.manual_seed(3)
    net = Transformer(**{"num_tokens": K, "length": L, "num_classes": 2, "dim": 16, "depth": 1, "heads": 2, **sizes})
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return net.eval()


@pytest.mark.parametrize("top_k", [None, 1, 3, 20])
@pytest.mark.parametrize("top_p", [None, 0.01, 0.9])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_filters_equal_brute_force(top_k, top_p, temperature):
    logits = torch.randn(20, 8, generator=torch.Generator().manual_seed(4)) * 2
    found = restrict(logits, temperature, top_k, top_p).softmax(-1)
    for row, probs in zip(logits.tolist(), found, strict=True):
        order = sorted(range(8), key=lambda i: -row[i])[: top_k or 8]
        weight = {i: torch.tensor(row[i] / temperature).exp().item() for i in order}
        kept, together = [], 0.0
        for i in order:
            if kept and top_p is not None and together >= top_p:
                break
            kept.append(i)
            together += weight[i] / sum(weight.values())
        expected = torch.tensor([weight[i] / sum(weight[j] for j in kept) if i in kept else 0.0 for i in range(8)])
        torch.testing.assert_close(probs, expected, rtol=1e-4, atol=1e-6)


def test_draw_frequencies_equal_probabilities():
    probs = torch.tensor([0.5, 0.0, 0.3, 0.2])
    counts = torch.bincount(draw(probs.log().expand(40_000, 4), torch.Generator().manual_seed(0)), minlength=4)
    assert counts[1] == 0
    torch.testing.assert_close(counts / 40_000, probs, rtol=0, atol=4 * 0.0025)  # 4 standard deviations


def test_sequence_frequencies_equal_network_probabilities():
    """All 125 sequences, with their probabilities from one forward pass each, against 20,000 draws."""
    net, number = network(), 20_000
    every = torch.tensor(list(itertools.product(range(K), repeat=L)))
    label = torch.ones(len(every), dtype=torch.int64)
    log_probs = net(every[:, :-1], label).log_softmax(-1).gather(2, every[..., None]).sum((1, 2))
    assert log_probs.exp().sum().item() == pytest.approx(1, abs=1e-5)
    drawn = generate(net, torch.ones(number, dtype=torch.int64), generator=torch.Generator().manual_seed(5))
    counts = torch.bincount((drawn * torch.tensor([K * K, K, 1])).sum(1), minlength=K**L)
    expected = log_probs.exp() * number
    chi_square = ((counts - expected) ** 2 / expected.clamp_min(1)).sum().item()
    assert chi_square < 124 + 5 * (2 * 124) ** 0.5


@pytest.mark.parametrize("options", [{}, {"guidance": 2.5}, {"top_p": 0.8}])
@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_cached_generation_equals_full_forward_passes(options, num_codebooks):
    net, label = network(length=12, num_codebooks=num_codebooks, depth=3), torch.arange(40) % 3
    cached = generate(net, label, **options, generator=torch.Generator().manual_seed(6))
    tokens, generator = torch.empty(40, 0, dtype=torch.int64), torch.Generator().manual_seed(6)
    for _ in range(12):
        logits, free = (net(tokens, condition)[:, -1] for condition in (label, torch.full_like(label, net.no_label)))
        logits = guide(logits, free, options["guidance"]) if "guidance" in options else logits
        drawn = draw(restrict(logits, top_p=options.get("top_p")), generator)
        tokens = torch.cat([tokens, drawn[:, None]], 1)
    assert torch.equal(cached, tokens)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_guided_frequencies_equal_formula(guidance):
    """p(token) is proportional to p(token | no label) ^ (1 - g) x p(token | label) ^ g."""
    net = network(length=1)
    none = torch.zeros(1, 0, dtype=torch.int64)
    with_label, without = (net(none, torch.tensor([c]))[0, 0].softmax(-1) for c in (1, 2))
    expected = without ** (1 - guidance) * with_label**guidance
    drawn = generate(net, torch.ones(40_000, dtype=torch.int64), guidance=guidance)
    found = torch.bincount(drawn[:, 0], minlength=K) / 40_000
    torch.testing.assert_close(found, expected / expected.sum(), rtol=0, atol=0.012)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"temperature": float("nan")}, "temperature must be above 0, got nan"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 1.5}, "top_p must be in (0, 1], got 1.5"),
        ({"guidance": -1.0}, "guidance must be at least 0, got -1.0"),
    ],
)
def test_messages(options, line):
    with refused(line):
        generate(network(), torch.zeros(1, dtype=torch.int64), **options)


def test_ties_at_top_k_and_a_tiny_temperature():
    assert restrict(torch.zeros(2, 9), top_k=4).isfinite().sum(-1).tolist() == [4, 4]
    logits = torch.randn(50, 8)
    assert torch.equal(draw(restrict(logits, temperature=1e-30)), logits.argmax(-1))
