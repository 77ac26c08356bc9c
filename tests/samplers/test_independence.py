"""The chains against posteriors that can be summed: 3 positions of 4 values, 64 codes, tables of random numbers."""

import itertools
import math

import pytest
import torch

from vqlab.models.categorical.jsa import record_rate
from vqlab.samplers.independence import (
    block_masks,
    blockwise_chain,
    global_chain,
    isir,
    log_prob,
    mis,
    mis_rb,
    propose,
)

POSITIONS, K = 3, 4
CODES = torch.tensor(list(itertools.product(range(K), repeat=POSITIONS)))  # (64, 3)
NUMBER = torch.tensor([16, 4, 1])  # of a code in CODES


def problem(seed):
    """A joint table ln p (4, 64), unnormalised, and log-probabilities (4, 3, 4) of a blurred q."""
    log_p = 1.5 * torch.randn(4, len(CODES), generator=torch.Generator().manual_seed(seed))
    cube = log_p.softmax(1).view(4, K, K, K)
    marginals = torch.stack([cube.sum((2, 3)), cube.sum((1, 3)), cube.sum((1, 2))], 1)
    return log_p, (0.7 * marginals + 0.3 / K).log()


def weigh(log_p, log_q):
    def log_weight(codes):
        return log_p.gather(1, (codes * NUMBER).sum(-1)) - log_prob(log_q, codes)

    return log_weight


def frequencies(states, weights):
    """How often each of the 64 codes was met, (64,)."""
    counts = torch.zeros(len(CODES), dtype=torch.float64)
    counts.scatter_add_(0, (states * NUMBER).sum(-1).flatten(), weights.double().flatten())
    return counts / counts.sum()


def total_variation(p, q):
    return (p - q).abs().sum().item() / 2


def run_chains(log_p, log_q, take, chains=8000, burn_in=120, kept=200, per_call=20):
    """Pooled frequencies of ``kept`` steps of many chains on one image; ``take`` makes ``per_call`` steps."""
    log_p, log_q = log_p.expand(chains, -1), log_q.expand(chains, -1, -1)
    state = torch.zeros(chains, POSITIONS, dtype=torch.int64)
    total = torch.zeros(len(CODES), dtype=torch.float64)
    for done in range(0, burn_in + kept, per_call):
        proposals = propose(log_q, torch.rand(chains, per_call, POSITIONS))
        chain = take(weigh(log_p, log_q), state, proposals, torch.rand(chains, per_call), done)
        state = chain.last
        if done >= burn_in:
            total += frequencies(chain.states, chain.weights)
    return total / total.sum()


def blocks_of(pattern, steps, done):
    """The blocks of a 1 x 3 map in turn."""
    masks = block_masks(pattern, POSITIONS, 1) if pattern == "rows" else block_masks(pattern, 1, POSITIONS)
    return masks[(torch.arange(steps) + done) % len(masks)]


TAKE = {
    "mis": lambda w, s, p, u, done: global_chain(w, s, p, u, "mis"),
    "mis_rb": lambda w, s, p, u, done: global_chain(w, s, p, u, "mis_rb"),
    "rows": lambda w, s, p, u, done: blockwise_chain(w, s, p, u, blocks_of("rows", p.shape[1], done)),
    "patches": lambda w, s, p, u, done: blockwise_chain(w, s, p, u, blocks_of("patches", p.shape[1], done)),
    "checkerboard": lambda w, s, p, u, done: blockwise_chain(w, s, p, u, blocks_of("checkerboard", p.shape[1], done)),
}


@pytest.mark.parametrize("kernel", TAKE)
@pytest.mark.parametrize("image", range(4))
def test_the_posterior_is_stationary(kernel, image):
    log_p, log_q = (part[image : image + 1] for part in problem(2))
    posterior = log_p.softmax(1)[0].double()
    q = log_prob(log_q, CODES[None]).exp()[0].double()
    assert total_variation(q, posterior) >= 0.4  # else the chain would have nothing to do
    assert total_variation(run_chains(log_p, log_q, TAKE[kernel]), posterior) <= 0.01


def test_isir_keeps_the_posterior():
    """From exact draws, one step of resampling among stored and new ones gives exact draws."""
    log_p, log_q = (part[:1] for part in problem(2))
    posterior, chains = log_p.softmax(1)[0], 200_000
    state = CODES[torch.multinomial(posterior, chains, replacement=True)]
    proposals = propose(log_q.expand(chains, -1, -1), torch.rand(chains, 5, POSITIONS))
    weight = weigh(log_p.expand(chains, -1), log_q.expand(chains, -1, -1))
    chain = global_chain(weight, state, proposals, torch.rand(chains, 5), "isir")
    assert total_variation(frequencies(chain.last, torch.ones(chains)), posterior.double()) <= 0.01
    assert total_variation(frequencies(chain.states, chain.weights), posterior.double()) <= 0.01


def test_a_chain_that_starts_anew_misses_the_posterior():
    """Without the cache: the average over 5 steps from a draw of q is far from the posterior."""
    log_p, log_q = (part[:1] for part in problem(2))
    posterior, chains = log_p.softmax(1)[0].double(), 50_000
    log_q, log_p = log_q.expand(chains, -1, -1), log_p.expand(chains, -1)
    draws = propose(log_q, torch.rand(chains, 6, POSITIONS))
    chain = global_chain(weigh(log_p, log_q), draws[:, 0], draws[:, 1:], torch.rand(chains, 5))
    assert total_variation(frequencies(chain.states, chain.weights), posterior) >= 0.1


def sequential(log_w, uniform):
    """The chain of the paper's algorithm, one sample at a time in plain Python floats."""
    paths = []
    for row, numbers in zip(log_w.tolist(), uniform.tolist(), strict=True):
        state, path = 0, []
        for t, u in enumerate(numbers, start=1):
            if math.log(u) < min(0.0, row[t] - row[state]):
                state = t
            path.append(state)
        paths.append(path)
    return torch.tensor(paths)


def test_the_batched_chain_is_the_sequential_one():
    log_w, uniform = 3 * torch.randn(50, 21), torch.rand(50, 20)
    path = sequential(log_w, uniform)
    weights, last, accepted = mis(log_w, uniform)
    expected = torch.stack([(path == state).float().mean(1) for state in range(21)], 1)
    torch.testing.assert_close(weights, expected, atol=1e-6, rtol=0)
    for kernel in (mis, mis_rb, isir):
        torch.testing.assert_close(kernel(log_w, uniform)[0].sum(1), torch.ones(50))
    assert torch.equal(last, path[:, -1])
    assert torch.equal(accepted, path.diff(dim=1, prepend=torch.zeros(50, 1, dtype=torch.int64)) != 0)


def test_blockwise_with_one_block_of_all_positions_is_global():
    log_p, log_q = problem(2)
    proposals, uniform = propose(log_q, torch.rand(4, 12, POSITIONS)), torch.rand(4, 12)
    start = proposals[:, 0]
    weight = weigh(log_p, log_q)
    whole = global_chain(weight, start, proposals, uniform)
    blocks = blockwise_chain(weight, start, proposals, uniform, torch.ones(12, POSITIONS, dtype=torch.bool))
    assert torch.equal(whole.last, blocks.last)
    assert torch.equal(whole.accepted, blocks.accepted)
    every = frequencies(whole.states, whole.weights), frequencies(blocks.states, blocks.weights)
    torch.testing.assert_close(*every)


def test_rao_blackwell_is_the_expectation_over_the_last_uniform():
    """One step: the weights of mis_rb are those of mis, averaged over the uniform number."""
    log_w = torch.randn(5, 2)
    uniform = (torch.arange(20_000) + 0.5) / 20_000
    average = torch.stack([mis(log_w, u.expand(5, 1))[0] for u in uniform[::20]]).mean(0)
    torch.testing.assert_close(mis_rb(log_w, torch.rand(5, 1))[0], average, atol=2e-3, rtol=0)


def test_impossible_states_are_left_at_once_and_never_entered():
    never = -math.inf
    log_w = torch.tensor([[never, never, 0.0, never]])
    for kernel in (mis, mis_rb, isir):
        weights, last, _ = kernel(log_w, torch.full((1, 3), 0.999))
        assert last.item() == 2
        assert weights.isfinite().all()
    assert mis(log_w, torch.rand(1, 3))[0].tolist() == [[pytest.approx(1 / 3), 0, pytest.approx(2 / 3), 0]]


@pytest.mark.parametrize("steps", [10, 20])
def test_without_a_cache_acceptance_is_that_of_records(steps):
    """Where weights differ by thousands of nats, whatever the model: (H_{L+1} - 1) / L."""
    _, _, accepted = mis(1e4 * torch.randn(20_000, steps + 1), torch.rand(20_000, steps))
    assert accepted.float().mean().item() == pytest.approx(record_rate(steps), abs=0.01)


def test_proposals_follow_their_probabilities():
    log_q = torch.randn(2, 3, 7).mul(2).log_softmax(-1)
    codes = propose(log_q, torch.rand(2, 100_000, 3))
    found = torch.stack([(codes == k).float().mean(1) for k in range(7)], -1)
    torch.testing.assert_close(found, log_q.exp(), atol=0.01, rtol=0)


def test_proposals_at_the_ends_of_the_unit_interval():
    log_q = torch.tensor([[[0.0, 0.5, 0.5, 0.0]]]).log()  # the first and the last category are impossible
    ends = torch.tensor([1e-300, 0.5 - 1e-6, 1 - 2**-53], dtype=torch.float64)[None, :, None]
    assert propose(log_q, ends).flatten().tolist() == [1, 1, 2]


def test_log_prob_is_that_of_a_product():
    log_q, codes = torch.randn(2, 3, 5).log_softmax(-1), torch.randint(5, (2, 4, 3))
    expected = [[sum(log_q[b, p, codes[b, s, p]].item() for p in range(3)) for s in range(4)] for b in range(2)]
    torch.testing.assert_close(log_prob(log_q, codes), torch.tensor(expected))


@pytest.mark.parametrize("pattern", ["rows", "patches", "checkerboard"])
@pytest.mark.parametrize(("height", "width", "depth"), [(8, 8, 1), (5, 3, 2), (1, 1, 20)])
def test_blocks_divide_the_map(pattern, height, width, depth):
    masks = block_masks(pattern, height, width, depth)
    assert masks.shape[1] == height * width * depth
    assert (masks.sum(0) == 1).all()
    assert masks.any(1).all()
    assert torch.equal(masks.unflatten(1, (-1, depth)).any(2), masks.unflatten(1, (-1, depth)).all(2))


def test_patches_and_checkerboard():
    patches = block_masks("patches", 4, 4, size=2).view(-1, 4, 4)
    assert patches[0].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    board = block_masks("checkerboard", 4, 4, size=2).view(-1, 4, 4)
    assert board[0].nonzero().tolist() == [[0, 0], [0, 2], [2, 0], [2, 2]]
