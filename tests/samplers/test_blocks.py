"""Chains over blocks of positions against enumeration of the posterior over 64 codes, 3 positions of 4 values."""

import pytest
import torch

from tests.samplers.test_independence import CODES, NUMBER, POSITIONS, K, frequencies, problem, total_variation
from vqlab.samplers import blocks
from vqlab.samplers.blocks import norm_constrained, run_blocks, run_gibbs
from vqlab.samplers.independence import log_prob

CHAINS = 5000


def of_tables(image, block_size):
    """Proposals from q; return the posterior (64,), q (64,) and a function that runs many chains."""
    log_p, log_q = (part[image] for part in problem(2))

    def from_q(codes, _, positions):
        return log_q[positions]

    def evaluate(codes):
        return log_p[codes @ NUMBER], codes

    return (
        log_p.softmax(0).double(),
        log_prob(log_q[None], CODES[None])[0].exp().double(),
        lambda state, uniform: run_blocks(evaluate, from_q, state, uniform, block_size),
    )


def of_conditionals(image):
    posterior, q, _ = of_tables(image, 1)
    log_p = posterior.log().float()
    return posterior, q, lambda state, uniform: run_gibbs(lambda codes: log_p[codes @ NUMBER], state, uniform, K)


def of_gradients(image, block_size):
    """A posterior of embeddings, exp(-|target - W e|^2 / 2 + cos(e)), and norm-constrained proposals."""
    generator = torch.Generator().manual_seed(image)
    codebook = torch.randn(K, 2, generator=generator)
    weight = 0.5 * torch.randn(5, POSITIONS * 2, generator=generator)
    target = 0.7 * torch.randn(5, generator=generator)

    def log_density(embedded):
        rest = target - embedded.flatten(1) @ weight.T
        return -rest.square().sum(1) / 2 + embedded.cos().sum((1, 2))

    def evaluate(codes):
        embedded = codebook[codes].requires_grad_()
        with torch.enable_grad():
            log_p = log_density(embedded)
        return log_p.detach(), torch.autograd.grad(log_p.sum(), embedded)[0]

    def proposal(codes, gradient, positions):
        at = positions[..., None].expand(-1, -1, 2)
        return norm_constrained(gradient.gather(1, at), codebook[codes.gather(1, positions)], codebook, 2.0)

    posterior = log_density(codebook[CODES]).softmax(0).double()
    uniform_q = torch.full_like(posterior, 1 / len(CODES))
    return posterior, uniform_q, lambda state, uniform: run_blocks(evaluate, proposal, state, uniform, block_size)


PROBLEMS = {
    "block_mis, 1 position": lambda image: of_tables(image, 1),
    "block_mis, 2 positions": lambda image: of_tables(image, 2),
    "gibbs": of_conditionals,
    "ncg, 1 position": lambda image: of_gradients(image, 1),
    "ncg, 2 positions": lambda image: of_gradients(image, 2),
}


def visited(run, steps=400):
    """Pooled frequencies of the states of many chains after two fifths of ``steps``."""
    state, total = torch.zeros(CHAINS, POSITIONS, dtype=torch.int64), 0
    for done in range(0, steps, 20):
        chain = run(state, torch.rand(CHAINS, 21, POSITIONS + 1))
        state = chain.last
        if done >= steps * 2 // 5:
            total += frequencies(chain.states, chain.weights)
    return total / total.sum()


@pytest.mark.parametrize("image", [0, *(pytest.param(image, marks=pytest.mark.slow) for image in (1, 2, 3))])
@pytest.mark.parametrize("kernel", PROBLEMS)
def test_chain_converges_to_the_posterior(kernel, image):
    posterior, q, run = PROBLEMS[kernel](image)
    assert total_variation(q, posterior) >= 0.4
    assert total_variation(visited(run), posterior) <= 0.01


@pytest.mark.parametrize("image", range(4))
@pytest.mark.parametrize("kernel", PROBLEMS)
def test_posterior_is_stationary(kernel, image):
    posterior, _, run = PROBLEMS[kernel](image)
    state = CODES[torch.multinomial(posterior, 100_000, replacement=True)]
    chain = run(state, torch.rand(len(state), 4, POSITIONS + 1))
    assert (chain.last != state).any(1).float().mean() > 0.2
    assert total_variation(frequencies(chain.states, chain.weights), posterior) <= 0.01


@pytest.mark.parametrize("kernel", ["block_mis, 2 positions", "ncg, 2 positions"])
def test_acceptance_without_the_ratio_of_proposals_misses_the_posterior(kernel, monkeypatch):
    posterior, _, run = PROBLEMS[kernel](0)
    monkeypatch.setattr(blocks, "_total", lambda log_r, values: torch.zeros(len(values)))
    assert total_variation(visited(run), posterior) >= 0.05


def test_norm_constrained_proposal_equals_its_formula():
    gradient, codebook = torch.randn(2, 3, 5), torch.randn(7, 5)
    current = codebook[torch.randint(7, (2, 3))]
    move = codebook - current[:, :, None]
    expected = ((gradient[:, :, None] * move).sum(-1) / 2 - move.square().sum(-1) / (2 * 0.3)).log_softmax(-1)
    torch.testing.assert_close(norm_constrained(gradient, current, codebook, 0.3), expected)
    each = codebook.expand(2, 3, -1, -1)
    torch.testing.assert_close(norm_constrained(gradient, current, each, 0.3), expected)


def test_weights_count_the_visits_and_a_step_changes_one_block():
    _, _, run = of_tables(0, 2)
    chain = run(torch.zeros(50, POSITIONS, dtype=torch.int64), torch.rand(50, 13, POSITIONS + 1))
    path = [chain.states[:, 0]]
    for step in range(12):
        candidate = chain.states[:, step + 1]
        assert (candidate != path[-1]).sum(1).max() == 2
        path.append(torch.where(chain.accepted[:, step, None], candidate, path[-1]))
    assert torch.equal(chain.last, path[-1])
    visits = frequencies(torch.stack(path[1:], 1), torch.ones(50, 12))
    torch.testing.assert_close(frequencies(chain.states, chain.weights), visits)
    assert 0.1 < chain.accepted.float().mean() < 0.9


def test_each_position_is_visited_equally_often():
    log_q = torch.zeros(4).log_softmax(0)
    seen = []

    def proposal(codes, _, positions):
        seen.append(positions)
        return log_q.expand(*positions.shape, 4)

    run_blocks(lambda c: (c[:, 0] * 0.0, c), proposal, torch.zeros(9, 6, dtype=torch.int64), torch.rand(9, 10, 7), 2)
    visits = torch.cat(seen, 1).flatten(1)
    assert all(torch.bincount(row, minlength=6).tolist() == [6] * 6 for row in visits)  # of 9 steps, there and back
