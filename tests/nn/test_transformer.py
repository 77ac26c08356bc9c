"""The transformer computes what the papers write, sees nothing ahead, and its cache changes nothing."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.refusal import refused
from vqlab.nn.transformer import Transformer

SIZES = {"num_tokens": 11, "length": 6, "num_classes": 3, "dim": 16, "depth": 2, "heads": 2}


def tiny(**sizes):
    torch.manual_seed(1)
    net = Transformer(**{**SIZES, **sizes}).eval()
    for weight in net.parameters():  # GPT-2's init is so small that mistakes would hide
        nn.init.normal_(weight, std=0.4)
    return net


def some_tokens(batch=3, n=5, high=11):
    return torch.randint(high, (batch, n), generator=torch.Generator().manual_seed(2))


def reference(net, tokens, label):
    """One sequence in float64 numpy, position by position, with rotary positions as complex numbers."""
    w = {name: value.detach().double().numpy() for name, value in net.state_dict().items()}
    books, codes, width, heads = net.num_codebooks, net.num_tokens, net.head_dim, net.heads

    def norm(x, weight):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + np.finfo(np.float32).eps) * weight

    def turned(x):  # (n, E): channel j and j + E/2 are the parts of one complex number, turned by m theta_j
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
        heard = np.zeros_like(x)
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            turned_q, turned_k = turned(q[:, part]), turned(k[:, part])
            for i in range(len(x)):
                scores = np.array([(turned_q[i] * turned_k[j].conj()).real.sum() for j in range(i + 1)])
                weights = np.exp(scores / math.sqrt(width))
                heard[i, part] = weights @ v[: i + 1, part] / weights.sum()
        x = x + heard @ w[name + "attention_out.weight"].T
        hidden = norm(x, w[name + "mlp_norm.weight"]) @ w[name + "mlp_in.weight"].T
        hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        x = x + hidden @ w[name + "mlp_out.weight"].T
    logits = norm(x, w["norm.weight"]) @ w["head.weight"].T
    return np.stack([row.reshape(books, codes)[i % books] for i, row in enumerate(logits)])


@pytest.mark.parametrize("num_codebooks", [1, 2, 3])
def test_it_is_what_the_papers_write(num_codebooks):
    net, tokens, labels = tiny(num_codebooks=num_codebooks), some_tokens(), torch.tensor([2, 0, 3])
    found = net(tokens, labels)
    assert found.shape == (3, 6, 11)
    for logits, row, label in zip(found, tokens, labels, strict=True):
        expected = reference(net, row.tolist(), int(label))
        np.testing.assert_allclose(logits.detach().numpy(), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_no_logit_sees_its_own_token_or_a_later_one(num_codebooks):
    net, tokens = tiny(num_codebooks=num_codebooks), some_tokens()
    before = net(tokens)
    for j in range(5):
        changed = tokens.clone()
        changed[:, j] = (changed[:, j] + 1) % 11
        after = net(changed)
        assert torch.equal(after[:, : j + 1], before[:, : j + 1])
        assert not torch.isclose(after[:, j + 1 :], before[:, j + 1 :]).all(-1).any(), "every later one sees it"


@pytest.mark.parametrize("num_codebooks", [1, 2])
@pytest.mark.parametrize("steps", [[0, 1, 1, 1, 1, 1], [0, 5], [2, 2, 1], [3, 1, 1]])
def test_the_cache_changes_nothing(steps, num_codebooks):
    net, tokens, labels = tiny(num_codebooks=num_codebooks), some_tokens(), torch.tensor([0, 1, 2])
    cache, done, parts = net.new_cache(3), 0, []
    for step in steps:
        parts.append(net(tokens[:, done : done + step], labels, cache))
        done += step
    torch.testing.assert_close(torch.cat(parts, 1), net(tokens, labels), rtol=1e-4, atol=1e-5)
    assert cache.length == 6
    with refused("nothing to predict"):
        net(tokens[:, :1], labels, cache)


def test_it_starts_as_gpt_2_does():
    torch.manual_seed(0)
    net = Transformer(64, 16, dim=128, depth=8, heads=4)
    for name, weight in net.named_parameters():
        if weight.ndim == 2 and weight.numel() > 1000:
            expected = 0.02 / 4 if name.endswith("out.weight") else 0.02  # 4 = sqrt(2 x 8)
            assert weight.std().item() == pytest.approx(expected, rel=0.1), name
    tokens = torch.randint(64, (8, 15))
    loss = nn.functional.cross_entropy(net(tokens)[:, :-1].flatten(0, 1), tokens.flatten())
    assert loss.item() == pytest.approx(math.log(64), rel=0.02)
