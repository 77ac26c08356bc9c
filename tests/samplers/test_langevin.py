"""Langevin chains against closed forms and quadrature."""

import math

import pytest
import torch

from vqlab.samplers import mala

GRID = torch.linspace(-4, 4, 8001, dtype=torch.float64)


def log_p(x):
    """Two unequal modes and a heavy tail, per value."""
    return torch.logsumexp(torch.stack([-8 * (x - 1) ** 2, -2 * (x + 0.5) ** 2 - 0.3]), 0).flatten(1).sum(1)


@pytest.mark.parametrize("step_size", [0.3, 0.8])
def test_chain_keeps_the_distribution_whatever_the_step_size(step_size):
    density = log_p(GRID[:, None]).exp()
    density /= density.sum()
    draws = GRID[torch.multinomial(density, 100_000, replacement=True)].float().view(-1, 1)
    x, accepted = mala(log_p, draws, step_size, torch.randn(100_000, 20, 1), torch.rand(100_000, 20))
    assert 0.2 < accepted.float().mean() < 0.98
    for power in (1, 2, 3):
        expected = (density * GRID**power).sum().item()
        deviation = (density * (GRID**power - expected) ** 2).sum().sqrt().item()
        assert x.double().pow(power).mean() == pytest.approx(expected, abs=5 * deviation / math.sqrt(100_000))


def test_acceptance_equals_its_formula():
    """One step of a Gaussian in float64, whose gradient is -x."""
    x, noise, uniform = (torch.randn(500, 3, dtype=torch.float64) for _ in range(3))
    uniform = torch.rand(500, 1, dtype=torch.float64)
    _, accepted = mala(lambda x: -x.square().sum(1) / 2, x, 1.5, noise[:, None], uniform)
    mean = x - 1.5**2 / 2 * x
    new = mean + 1.5 * noise
    normal = torch.distributions.Normal
    forward, back = normal(mean, 1.5).log_prob(new), normal(new - 1.5**2 / 2 * new, 1.5).log_prob(x)
    ratio = (normal(0, 1).log_prob(new) - normal(0, 1).log_prob(x) + back - forward).sum(1)
    assert torch.equal(accepted[:, 0], uniform[:, 0].log() < ratio)
    assert 0.05 < accepted.float().mean() < 0.95


def test_images_of_impossible_states_are_left():
    x, accepted = mala(lambda x: torch.where(x > 0, 0.0, -torch.inf).sum(1) + 0 * x.sum(1), torch.ones(50, 1), 3.0,
                       torch.randn(50, 8, 1), torch.rand(50, 8))  # fmt: skip
    assert (x > 0).all()
    assert 0.1 < accepted.float().mean() < 0.9
