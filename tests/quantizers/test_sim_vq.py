"""Initialisation of SimVQ against moments in float64; test_family_gradients has the loss."""

import pytest
import torch

from tests.helpers.family import assert_same_state, state
from tests.helpers.family import rand64 as rand
from vqlab.quantizers import SimVQ


def correlated(num, dim, seed):
    """Rows (N, D) with correlated channels, far from the origin."""
    return rand(num, dim, seed=seed) @ rand(dim, dim, seed=seed + 1) + 5 * rand(dim, seed=seed + 2)


def moments(rows):
    mean = rows.mean(0)
    return mean, (rows - mean).T @ (rows - mean) / len(rows)


@pytest.mark.parametrize("dim", [1, 5])
def test_data_init_is_the_root_of_the_covariance(dim):
    rows = correlated(300, dim, seed=4)
    quantizer = SimVQ(9, dim).double()
    quantizer(rows)
    weight, bias = quantizer.projection.weight.detach(), quantizer.projection.bias.detach()
    mean, cov = moments(rows)
    torch.testing.assert_close(bias, mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(weight @ weight, dim * cov, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(weight, weight.T, rtol=1e-10, atol=1e-10)
    assert torch.linalg.eigvalsh(weight).min() > 0


@pytest.mark.parametrize("rows", [rand(2, 5, seed=6), torch.ones(9, 5).double(), 1e6 + rand(50, 5, seed=7)])
def test_data_init_with_singular_covariance_or_large_mean(rows):
    quantizer = SimVQ(16, 5)
    out = quantizer(rows.float())
    mean, cov = moments(rows.float().double())
    weight, bias = quantizer.projection.weight.detach().double(), quantizer.projection.bias.detach().double()
    torch.testing.assert_close(bias, mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(weight @ weight, 5 * cov, rtol=0, atol=1e-2)  # also 10^6 standard deviations away
    assert quantizer.codebook.isfinite().all()
    assert out.loss.isfinite()


def test_codes_have_the_moments_of_the_first_finite_training_batch():
    rows, quantizer = correlated(500, 6, seed=5), SimVQ(40_000, 6)
    frozen = moments(quantizer.frozen)
    torch.testing.assert_close(frozen, (torch.zeros(6), torch.eye(6) / 6), rtol=0, atol=0.01)
    quantizer.eval()(rows.float())
    quantizer.train()(rows.float().index_fill(0, torch.tensor(3), torch.nan))
    assert quantizer.first_batch.awaited
    for other in (0, 7):  # the second changes nothing
        quantizer(rows.float() + other)
    (mean, cov), (code_mean, code_cov) = moments(rows), moments(quantizer.codebook.detach().double())
    scale = cov.diagonal().sqrt()
    torch.testing.assert_close((code_mean - mean) / scale, torch.zeros(6).double(), rtol=0, atol=0.03)
    torch.testing.assert_close((code_cov - cov) / scale / scale[:, None], torch.zeros(6, 6).double(), rtol=0, atol=0.05)


def test_random_init_keeps_the_linear_layer():
    quantizer = SimVQ(16, 4, init="random")
    expected = state(quantizer)
    quantizer(rand(30, 4, seed=13).float())
    assert_same_state(state(quantizer), expected)
