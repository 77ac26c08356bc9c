"""Chains and bounds against enumeration of the posterior over 64 codes, 3 positions of 4 values."""

import itertools
import math

import pytest
import torch

from vqlab.models.categorical.jsa import record_rate
from vqlab.samplers.independence import isir, log_prob, mis, mis_rb, nll_bounds, propose, run_chain

POSITIONS, K = 3, 4
CODES = torch.tensor(list(itertools.product(range(K), repeat=POSITIONS)))  # (64, 3)
NUMBER = torch.tensor([16, 4, 1])  # codes @ NUMBER is the row in CODES


def problem(seed):
    """An unnormalised joint table ln p (4, 64), and log-probabilities (4, 3, 4) of an approximate q."""
    log_p = 1.5 * torch.randn(4, len(CODES), generator=torch.Generator().manual_seed(seed))
    cube = log_p.softmax(1).view(4, K, K, K)
    marginals = torch.stack([cube.sum((2, 3)), cube.sum((1, 3)), cube.sum((1, 2))], 1)
    return log_p, (0.7 * marginals + 0.3 / K).log()


def weigh(log_p, log_q):
    return lambda codes: log_p.gather(1, (codes * NUMBER).sum(-1)) - log_prob(log_q, codes)


def frequencies(states, weights):
    """The frequency of each code, (64,)."""
    counts = torch.zeros(len(CODES), dtype=torch.float64)
    counts.scatter_add_(0, (states * NUMBER).sum(-1).flatten(), weights.double().flatten())
    return counts / counts.sum()


def total_variation(p, q):
    return (p - q).abs().sum().item() / 2


@pytest.mark.parametrize("kernel", ["mis", "mis_rb"])
@pytest.mark.parametrize("image", [0, 1])
def test_chain_converges_to_the_posterior(kernel, image):
    """Pooled frequencies of 200 steps of many chains on one image, after 120 steps."""
    log_p, log_q = (part[image : image + 1] for part in problem(2))
    posterior, chains = log_p.softmax(1)[0].double(), 8000
    q = log_prob(log_q, CODES[None]).exp()[0].double()
    assert total_variation(q, posterior) >= 0.4
    log_p, log_q = log_p.expand(chains, -1), log_q.expand(chains, -1, -1)
    state, total = torch.zeros(chains, POSITIONS, dtype=torch.int64), 0
    for done in range(0, 320, 20):
        proposals = propose(log_q, torch.rand(chains, 20, POSITIONS))
        chain = run_chain(weigh(log_p, log_q), state, proposals, torch.rand(chains, 20), kernel)
        state = chain.last
        if done >= 120:
            total += frequencies(chain.states, chain.weights)
    assert total_variation(total / total.sum(), posterior) <= 0.01


def test_isir_keeps_the_posterior_stationary():
    log_p, log_q = (part[:1] for part in problem(2))
    posterior, chains = log_p.softmax(1)[0], 200_000
    state = CODES[torch.multinomial(posterior, chains, replacement=True)]
    proposals = propose(log_q.expand(chains, -1, -1), torch.rand(chains, 5, POSITIONS))
    weight = weigh(log_p.expand(chains, -1), log_q.expand(chains, -1, -1))
    chain = run_chain(weight, state, proposals, torch.rand(chains, 5), "isir")
    assert total_variation(frequencies(chain.last, torch.ones(chains)), posterior.double()) <= 0.01
    assert total_variation(frequencies(chain.states, chain.weights), posterior.double()) <= 0.01


def test_short_chain_without_a_cache_misses_the_posterior():
    log_p, log_q = (part[:1] for part in problem(2))
    posterior, chains = log_p.softmax(1)[0].double(), 50_000
    log_q, log_p = log_q.expand(chains, -1, -1), log_p.expand(chains, -1)
    draws = propose(log_q, torch.rand(chains, 6, POSITIONS))
    chain = run_chain(weigh(log_p, log_q), draws[:, 0], draws[:, 1:], torch.rand(chains, 5))
    assert total_variation(frequencies(chain.states, chain.weights), posterior) >= 0.1


def sequential(log_w, uniform):
    """The algorithm of the paper, one sample at a time in plain Python."""
    paths = []
    for row, numbers in zip(log_w.tolist(), uniform.tolist(), strict=True):
        state, path = 0, []
        for t, u in enumerate(numbers, start=1):
            if math.log(u) < min(0.0, row[t] - row[state]):
                state = t
            path.append(state)
        paths.append(path)
    return torch.tensor(paths)


def test_batched_chain_equals_sequential_chain():
    log_w, uniform = 3 * torch.randn(50, 21), torch.rand(50, 20)
    path = sequential(log_w, uniform)
    weights, last, accepted = mis(log_w, uniform)
    expected = torch.stack([(path == state).float().mean(1) for state in range(21)], 1)
    torch.testing.assert_close(weights, expected, atol=1e-6, rtol=0)
    for kernel in (mis, mis_rb, isir):
        torch.testing.assert_close(kernel(log_w, uniform)[0].sum(1), torch.ones(50))
    assert torch.equal(last, path[:, -1])
    assert torch.equal(accepted, path.diff(dim=1, prepend=torch.zeros(50, 1, dtype=torch.int64)) != 0)


def test_weights_of_mis_rb_are_the_mean_of_mis_over_the_uniform_number():
    log_w = torch.randn(5, 2)
    uniform = (torch.arange(1000) + 0.5) / 1000
    average = torch.stack([mis(log_w, u.expand(5, 1))[0] for u in uniform]).mean(0)
    torch.testing.assert_close(mis_rb(log_w, torch.rand(5, 1))[0], average, atol=2e-3, rtol=0)


def test_chain_leaves_and_never_enters_impossible_states():
    log_w = torch.tensor([[-math.inf, -math.inf, 0.0, -math.inf]])
    for kernel in (mis, mis_rb, isir):
        weights, last, _ = kernel(log_w, torch.full((1, 3), 0.999))
        assert last.item() == 2
        assert weights.isfinite().all()
    assert mis(log_w, torch.rand(1, 3))[0].tolist() == [[pytest.approx(1 / 3), 0, pytest.approx(2 / 3), 0]]


def test_acceptance_rate_without_a_cache_is_the_record_rate():
    """If weights differ by thousands of nats it is (H_{L+1} - 1) / L for any model."""
    _, _, accepted = mis(1e4 * torch.randn(20_000, 11), torch.rand(20_000, 10))
    assert accepted.float().mean().item() == pytest.approx(record_rate(10), abs=0.01)


def test_proposal_frequencies_equal_probabilities():
    log_q = torch.randn(2, 3, 7).mul(2).log_softmax(-1)
    codes = propose(log_q, torch.rand(2, 100_000, 3))
    found = torch.stack([(codes == k).float().mean(1) for k in range(7)], -1)
    torch.testing.assert_close(found, log_q.exp(), atol=0.01, rtol=0)


def test_proposals_at_the_ends_of_the_unit_interval():
    log_q = torch.tensor([[[0.0, 0.5, 0.5, 0.0]]]).log()  # the first and the last category are impossible
    ends = torch.tensor([1e-300, 0.5 - 1e-6, 1 - 2**-53], dtype=torch.float64)[None, :, None]
    assert propose(log_q, ends).flatten().tolist() == [1, 1, 2]


def test_bounds_equal_the_exact_likelihood_plus_divergences():
    """ELBO: ln p(x) - KL(q || p); chain: ln p(x) + KL(p || q); importance sampling: ln p(x)."""
    log_p, log_q = problem(3)
    q, posterior, exact = log_prob(log_q, CODES.expand(4, -1, -1)), log_p.log_softmax(1), -log_p.logsumexp(1)

    def draws(num):
        return weigh(log_p, log_q)(propose(log_q, torch.rand(4, num, POSITIONS)))

    bounds, divergence = nll_bounds(draws(200_000), torch.rand(4, 199_999)), (posterior.exp() * (posterior - q)).sum(1)
    torch.testing.assert_close(bounds.importance, exact, atol=0.03, rtol=0)
    torch.testing.assert_close(bounds.elbo, exact + (q.exp() * (q - posterior)).sum(1), atol=0.05, rtol=0)
    torch.testing.assert_close(bounds.chain, exact - divergence, atol=0.05, rtol=0)
    assert divergence.min() > 0.1

    def mean_importance(num):
        return torch.stack([nll_bounds(draws(num), torch.rand(4, num - 1)).importance for _ in range(200)]).mean()

    assert mean_importance(1) > mean_importance(5) + 0.1 > mean_importance(50) + 0.1


@pytest.mark.parametrize("num", [1, 2, 3])
def test_bounds_of_few_draws_are_finite(num):
    log_w = torch.randn(4, num)
    bounds = nll_bounds(log_w, torch.rand(4, num - 1))
    assert all(bound.shape == (4,) and bound.isfinite().all() for bound in bounds)
    if num == 1:
        assert all(torch.allclose(bound, -log_w[:, 0]) for bound in bounds)


def test_bounds_ignore_impossible_draws():
    bounds = nll_bounds(torch.tensor([[0.0, -torch.inf, 0.0, -torch.inf]]), torch.rand(1, 3))
    assert bounds.importance.item() == pytest.approx(0.6931, abs=1e-4)
    assert bounds.chain.item() == pytest.approx(0.0)
