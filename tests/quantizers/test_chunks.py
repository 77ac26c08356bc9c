"""in_chunks against the same function on all rows at once, and entropy against its definition."""

import math

import pytest
import torch

from tests.helpers.family import rand64 as rand
from vqlab.quantizers import search
from vqlab.quantizers.search import entropy, in_chunks


@pytest.mark.parametrize(
    ("elements", "sizes"), [(28, [4, 4, 2]), (7, [1] * 10), (3, [1] * 10), (1000, [10]), (69, [9, 1])]
)
@pytest.mark.parametrize("grad", [True, False])
def test_results_and_gradients_are_those_of_one_block(monkeypatch, elements, sizes, grad):
    monkeypatch.setattr(search, "CHUNK_ELEMENTS", elements)
    codes, seen = rand(7, 3, seed=1).requires_grad_(), []

    def soft_codes(rows, weights):
        seen.append(len(rows))
        probs = (rows @ codes.T).softmax(1)
        return probs @ codes * weights[:, None], probs.sum(0)

    rows, weights, g = rand(10, 3, seed=2).requires_grad_(), rand(10, seed=3).requires_grad_(), rand(10, 3, seed=4)
    with torch.set_grad_enabled(grad):
        mixtures, sums = zip(*in_chunks(soft_codes, 7, rows, weights), strict=True)
    assert seen == sizes
    assert [len(mixture) for mixture in mixtures] == sizes
    whole, total = soft_codes(rows, weights)
    torch.testing.assert_close(torch.cat(mixtures), whole, rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.stack(sums).sum(0), total, rtol=0, atol=1e-14)
    if not grad:
        assert not torch.cat(mixtures).requires_grad
        return
    loss = (torch.cat(mixtures) * g).sum() + torch.stack(sums).sum(0).cos().sum()
    expected = (whole * g).sum() + total.cos().sum()
    inputs = (rows, weights, codes)
    for ours, theirs in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


def test_the_backward_pass_computes_again_with_the_same_random_numbers(monkeypatch):
    monkeypatch.setattr(search, "CHUNK_ELEMENTS", 5)
    drawn = []

    def noisy(rows):
        drawn.append(torch.randn(len(rows), 1))
        return (rows * drawn[-1],)

    rows = torch.ones(12, 1, requires_grad=True)
    out = torch.cat([block for (block,) in in_chunks(noisy, 1, rows)])
    assert len(drawn) == 3
    torch.rand(7)  # something else draws in between
    before = torch.random.get_rng_state()
    out.sum().backward()
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(rows.grad, out.detach())
    assert len(drawn) == 6
    assert len(torch.cat(drawn).unique()) == 12


def test_entropy():
    probs = rand(2, 3, 6, seed=5).softmax(-1)
    expected = [-sum(p * math.log(p) for p in row) for row in probs.reshape(-1, 6).tolist()]
    torch.testing.assert_close(entropy(probs).flatten(), torch.tensor(expected, dtype=torch.float64))
    assert torch.autograd.gradcheck(entropy, probs.clone().requires_grad_())
    certain = torch.tensor([1.0, 0.0, 0.0], requires_grad=True)
    value = entropy(certain)
    value.backward()
    assert value == 0
    assert certain.grad.isfinite().all()
    assert certain.grad[1] > 20  # towards a code that is never used
    assert entropy(torch.full((5,), 0.2)).item() == pytest.approx(math.log(5))
