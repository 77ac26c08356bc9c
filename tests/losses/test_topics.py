"""Losses of a topic model: closed forms and float64 references."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from vqlab.losses.topics import neighbour_loss, topic_divergence, usage_entropy

SEEDS = st.integers(0, 2**32 - 1)


def proportions(seed, rows=6, columns=4):
    return np.random.default_rng(seed).dirichlet(np.ones(columns), rows)


@given(SEEDS)
def test_neighbour_loss_and_usage_equal_sums(seed):
    theta, other = proportions(seed), proportions(seed + 1)
    agreement = [sum(a * b for a, b in zip(*rows, strict=True)) for rows in zip(theta, other, strict=True)]
    expected = -sum(math.log(value) for value in agreement) / len(agreement)
    assert math.isclose(neighbour_loss(torch.tensor(theta), torch.tensor(other)).item(), expected, rel_tol=1e-6)
    mean = theta.mean(0)
    assert math.isclose(usage_entropy(torch.tensor(theta)).item(), -(mean * np.log(mean)).sum(), rel_tol=1e-6)


@given(SEEDS)
def test_divergence_of_two_topics_is_that_of_scipy(seed):
    topics = proportions(seed, rows=2, columns=9)
    expected = jensenshannon(*topics) ** 2
    assert math.isclose(topic_divergence(torch.tensor(topics).log()).item(), expected, rel_tol=1e-5, abs_tol=1e-9)


def test_extremes():
    same, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert neighbour_loss(same, same).item() == 0
    assert math.isfinite(neighbour_loss(same, other).item())
    assert abs(usage_entropy(same).item()) < 1e-6
    logits = torch.zeros(3, 5, requires_grad=True)
    divergence = topic_divergence(logits.log_softmax(1))
    divergence.backward()
    assert abs(divergence.item()) < 1e-6
    assert torch.isfinite(logits.grad).all()
