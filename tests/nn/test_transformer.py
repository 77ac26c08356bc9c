"""The transformer against the formulas of the papers, its causality and its cache."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.refusal import refused
from vqlab.nn.transformer import Transformer, rotate, rotation

SIZES = {"num_tokens": 11, "length": 6, "num_classes": 3, "dim": 16, "depth": 2, "heads": 2}


def tiny(**sizes):
    torch.manual_seed(1)
    net = Transformer(**{**SIZES, **sizes}).eval()
    for weight in net.parameters():  # GPT-2's weights are so small that they hide mistakes
        nn.init.normal_(weight, std=0.4)
    return net


def some_tokens(batch=3, n=5, high=11):
    return torch.randint(high, (batch, n), generator=torch.Generator().manual_seed(2))


def reference(net, tokens, label):
    """One sequence in float64 NumPy, position by position, with rotary positions as complex numbers."""
    w = {name: value.detach().double().numpy() for name, value in net.state_dict().items()}
    books, codes, width, heads = net.num_codebooks, net.num_tokens, net.blocks.head_dim, net.blocks.heads

    def norm(x, weight):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + np.finfo(np.float32).eps) * weight

    def rotated(x):  # (n, E): channels j and j + E/2 are one complex number, rotated by m theta_j
        half = width // 2
        numbers = x[:, :half] + 1j * x[:, half:]
        theta = 10000.0 ** (-2 * np.arange(half) / width)
        return numbers * np.exp(1j * np.arange(len(x))[:, None] * theta)

    rows = [w["label.weight"][label]]
    rows += [w["token.weight"][i % books * codes + token] for i, token in enumerate(tokens)]
    x = np.stack(rows) + w["position.weight"][: len(rows)]
    for b in range(len(net.blocks)):
        name = f"blocks.{b}."
        q, k, v = np.split(norm(x, w[name + "attention_norm.weight"]) @ w[name + "qkv.weight"].T, 3, 1)
        attended = np.zeros_like(x)
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            rotated_q, rotated_k = rotated(q[:, part]), rotated(k[:, part])
            for i in range(len(x)):
                scores = np.array([(rotated_q[i] * rotated_k[j].conj()).real.sum() for j in range(i + 1)])
                weights = np.exp(scores / math.sqrt(width))
                attended[i, part] = weights @ v[: i + 1, part] / weights.sum()
        x = x + attended @ w[name + "attention_out.weight"].T
        hidden = norm(x, w[name + "mlp_norm.weight"]) @ w[name + "mlp_in.weight"].T
        hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        x = x + hidden @ w[name + "mlp_out.weight"].T
    logits = norm(x, w["norm.weight"]) @ w["head.weight"].T
    return np.stack([row.reshape(books, codes)[i % books] for i, row in enumerate(logits)])


@pytest.mark.parametrize("num_codebooks", [1, 2, 3])
def test_logits_equal_the_formulas_of_the_papers(num_codebooks):
    net, tokens, labels = tiny(num_codebooks=num_codebooks), some_tokens(), torch.tensor([2, 0, 3])
    found = net(tokens, labels)
    assert found.shape == (3, 6, 11)
    for logits, row, label in zip(found, tokens, labels, strict=True):
        expected = reference(net, row.tolist(), int(label))
        np.testing.assert_allclose(logits.detach().numpy(), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_logits_depend_on_earlier_tokens_only(num_codebooks):
    net, tokens = tiny(num_codebooks=num_codebooks), some_tokens()
    before = net(tokens)
    for j in range(5):
        changed = tokens.clone()
        changed[:, j] = (changed[:, j] + 1) % 11
        after = net(changed)
        assert torch.equal(after[:, : j + 1], before[:, : j + 1])
        assert not torch.isclose(after[:, j + 1 :], before[:, j + 1 :]).all(-1).any()


@pytest.mark.parametrize("num_codebooks", [1, 2])
@pytest.mark.parametrize("steps", [[0, 1, 1, 1, 1, 1], [0, 5], [2, 2, 1], [3, 1, 1]])
def test_logits_with_and_without_a_cache_are_equal(steps, num_codebooks):
    net, tokens, labels = tiny(num_codebooks=num_codebooks), some_tokens(), torch.tensor([0, 1, 2])
    cache, done, parts = net.new_cache(3), 0, []
    for step in steps:
        parts.append(net(tokens[:, done : done + step], labels, cache))
        done += step
    torch.testing.assert_close(torch.cat(parts, 1), net(tokens, labels), rtol=1e-4, atol=1e-5)
    assert cache.length == 6
    with refused("nothing to predict"):
        net(tokens[:, :1], labels, cache)


def test_initial_weights_are_those_of_gpt_2():
    torch.manual_seed(0)
    net = Transformer(64, 16, dim=128, depth=8, heads=4)
    for name, weight in net.named_parameters():
        if weight.ndim == 2 and weight.numel() > 1000:
            expected = 0.02 / 4 if name.endswith("out.weight") else 0.02  # 4 = sqrt(2 x 8)
            assert weight.std().item() == pytest.approx(expected, rel=0.1), name
    tokens = torch.randint(64, (8, 15))
    loss = nn.functional.cross_entropy(net(tokens)[:, :-1].flatten(0, 1), tokens.flatten())
    assert loss.item() == pytest.approx(math.log(64), rel=0.02)


def test_product_of_rotated_vectors_depends_on_their_distance_only():
    a, b = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    products = [
        (rotate(a, rotation(torch.tensor([m]), 8)) * rotate(b, rotation(torch.tensor([m + 3]), 8))).sum()
        for m in (0, 5, 90)
    ]
    torch.testing.assert_close(products, products[:1] * 3, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_near_float32_with_and_without_a_cache():
    net, tokens = tiny(), some_tokens()
    with torch.autocast("cpu", torch.bfloat16):
        cache = net.new_cache(3)
        stepwise = torch.cat([net(tokens[:, :2], cache=cache), net(tokens[:, 2:], cache=cache)], 1)
        for low in (net(tokens), stepwise):
            assert (low.float() - net(tokens)).abs().mean() / net(tokens).std() < 0.05
