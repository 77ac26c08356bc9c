"""The depth transformer against the formulas of the paper, its causality, its cache, and its probabilities."""

import itertools

import pytest
import torch
from torch import nn

from tests.helpers.refusal import refused
from vqlab.nn import DepthTransformer
from vqlab.samplers.tokens import draw, generate, guide

SIZES = {"num_tokens": 7, "length": 12, "num_classes": 3, "num_codebooks": 3, "dim": 16, "depth": 2, "heads": 2}


def tiny(**sizes):
    torch.manual_seed(1)
    net = DepthTransformer(**{**SIZES, "depth_blocks": 2, **sizes}).eval()
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.4)
    return net


def some_tokens(batch=3, n=11, high=7):
    return torch.randint(high, (batch, n), generator=torch.Generator().manual_seed(2))


def reference(net, tokens, label):
    """Logits (L, K) of one sequence, code by code, as in the paper: u_t, h_t, v_tq."""
    books, logits, inputs = net.num_codebooks, [], []
    for t in range(net.length // books):
        codes = tokens[(t - 1) * books : t * books]
        u = (
            sum(net.token.weight[q * net.num_tokens + code] for q, code in enumerate(codes))
            if t
            else net.label.weight[label]
        )
        inputs.append(u + net.position.weight[t])
        h = net.blocks(torch.stack(inputs)[None])[0, -1]
        v, total = [h + net.codebook.weight[0]], 0
        for q in range(books):
            x = net.norm(net.depth_blocks(torch.stack(v)[None])[0, -1])
            logits.append(net.head.weight[q * net.num_tokens : (q + 1) * net.num_tokens] @ x)
            if q < books - 1:
                total = total + net.token.weight[q * net.num_tokens + tokens[t * books + q]]
                v.append(total + net.codebook.weight[q + 1])
    return torch.stack(logits)


def test_logits_equal_the_formulas_of_the_paper():
    net, tokens, labels = tiny().double(), some_tokens(), torch.tensor([2, 0, 3])
    found = net(tokens, labels)
    assert found.shape == (3, 12, 7)
    for logits, row, label in zip(found, tokens.tolist(), labels, strict=True):
        torch.testing.assert_close(logits, reference(net, row, label))


@pytest.mark.parametrize("n", range(12))
def test_logits_of_fewer_tokens_are_the_same(n):
    net, tokens = tiny(), some_tokens()
    torch.testing.assert_close(net(tokens[:, :n]), net(tokens)[:, : n + 1])


def test_logits_depend_on_all_earlier_tokens_and_on_no_later_ones():
    net, tokens = tiny().double(), some_tokens()
    before = net(tokens)
    for j in range(11):
        changed = tokens.clone()
        changed[:, j] = (changed[:, j] + 1) % 7
        after = net(changed)
        assert torch.equal(after[:, : j + 1], before[:, : j + 1])
        assert not torch.isclose(after[:, j + 1 :], before[:, j + 1 :], rtol=1e-9).all(-1).any()


@pytest.mark.parametrize("num_codebooks", [1, 3, 12])
def test_logits_with_and_without_a_cache_are_equal(num_codebooks):
    net, tokens, labels = tiny(num_codebooks=num_codebooks), some_tokens(), torch.tensor([0, 1, 2])
    cache = net.new_cache(3)
    parts = [net(tokens[:, max(0, i - 1) : i], labels, cache) for i in range(12)]
    torch.testing.assert_close(torch.cat(parts, 1), net(tokens, labels), rtol=1e-4, atol=1e-5)
    with refused("nothing to predict"):
        net(tokens[:, :1], labels, cache)


@pytest.mark.parametrize("guidance", [1, 2.5])
def test_cached_generation_equals_full_forward_passes(guidance):
    net, label = tiny(), torch.arange(40) % 3
    cached = generate(net, label, guidance=guidance, generator=torch.Generator().manual_seed(6))
    tokens, generator = torch.empty(40, 0, dtype=torch.int64), torch.Generator().manual_seed(6)
    for _ in range(12):
        logits, free = (net(tokens, condition)[:, -1] for condition in (label, torch.full_like(label, net.no_label)))
        logits = guide(logits, free, guidance) if guidance != 1 else logits
        tokens = torch.cat([tokens, draw(logits, generator)[:, None]], 1)
    assert torch.equal(cached, tokens)


@pytest.mark.parametrize("label", [0, 1])
def test_probabilities_of_all_codes_sum_to_one(label):
    net = tiny(num_tokens=3, length=6, num_classes=1).double()
    every = torch.tensor(list(itertools.product(range(3), repeat=6)))
    log_probs = net(every[:, :-1], torch.full((729,), label)).log_softmax(-1).gather(2, every[..., None]).sum((1, 2))
    assert log_probs.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert log_probs.std() > 0.1


def test_messages():
    with refused("length must be a multiple of num_codebooks=5, got 12"):
        tiny(num_codebooks=5)
    with refused("dim must be an even multiple of heads 3, got 16"):
        tiny(heads=3)
