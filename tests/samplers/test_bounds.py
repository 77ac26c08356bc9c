"""The bounds of -ln p(x) against a model whose p(x) can be summed."""

import pytest
import torch

from vqlab.samplers.bounds import bracket
from vqlab.samplers.independence import log_prob, propose


@pytest.fixture
def model():
    """ln p(x, h) of 6 images and the 9 codes of 2 positions of 3 values, and a q."""
    log_p = 2 * torch.randn(6, 9) - 5
    return log_p, (0.5 * torch.randn(6, 2, 3)).log_softmax(-1)


def draws(log_p, log_q, num):
    codes = propose(log_q, torch.rand(len(log_p), num, 2))
    return log_p.gather(1, codes @ torch.tensor([3, 1])) - log_prob(log_q, codes)


def test_the_bounds_are_the_truth_and_two_divergences(model):
    """ELBO: ln p(x) - KL(q || p); chain: ln p(x) + KL(p || q); importance sampling: ln p(x)."""
    log_p, log_q = model
    codes = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    q = log_prob(log_q, codes.expand(6, -1, -1))
    exact, posterior = -log_p.logsumexp(1), log_p.log_softmax(1)
    bounds = bracket(draws(log_p, log_q, 200_000), torch.rand(6, 199_999))
    divergence = (posterior.exp() * (posterior - q)).sum(1)
    torch.testing.assert_close(bounds.importance, exact, atol=0.02, rtol=0)
    torch.testing.assert_close(bounds.elbo, exact + (q.exp() * (q - posterior)).sum(1), atol=0.03, rtol=0)
    torch.testing.assert_close(bounds.chain, exact - divergence, atol=0.03, rtol=0)
    assert divergence.min() > 0.1  # else the test would not tell them apart


def test_more_draws_tighten_the_bound(model):
    log_p, log_q = model
    means = [
        torch.stack([bracket(draws(log_p, log_q, num), torch.rand(6, num - 1)).importance for _ in range(200)]).mean()
        for num in (1, 5, 50)
    ]
    exact = -log_p.logsumexp(1).mean()
    assert means[0] > means[1] + 0.1 > means[2] + 0.1
    assert abs(means[2] - exact) < 0.05


@pytest.mark.parametrize("num", [1, 2, 3])
def test_few_draws(num):
    log_w = torch.randn(4, num)
    bounds = bracket(log_w, torch.rand(4, num - 1))
    assert all(bound.shape == (4,) and bound.isfinite().all() for bound in bounds)
    if num == 1:
        assert all(torch.allclose(bound, -log_w[:, 0]) for bound in bounds)


def test_impossible_draws_leave_the_bounds_of_the_others():
    log_w = torch.tensor([[0.0, -torch.inf, 0.0, -torch.inf]])
    bounds = bracket(log_w, torch.rand(1, 3))
    assert bounds.importance.item() == pytest.approx(0.6931, abs=1e-4)
    assert bounds.chain.item() == pytest.approx(0.0)
