"""SimVQ against brute force over the projected codes, and its initialisation against moments in float64."""

import pytest
import torch

from tests.helpers.family import rand64 as rand
from vqlab.quantizers.sim_vq import SimVQ


def correlated(num, dim, seed):
    """Rows (N, D) whose channels depend on each other, far from the origin."""
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
    assert not quantizer.first_batch.awaited


@pytest.mark.parametrize("rows", [rand(2, 5, seed=6), torch.ones(9, 5).double(), 1e6 + rand(50, 5, seed=7)])
def test_batches_with_a_difficult_covariance(rows):
    quantizer = SimVQ(16, 5)
    out = quantizer(rows.float())
    mean, cov = moments(rows.float().double())
    weight, bias = quantizer.projection.weight.detach().double(), quantizer.projection.bias.detach().double()
    torch.testing.assert_close(bias, mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(weight @ weight, 5 * cov, rtol=0, atol=1e-2)  # also 10^6 standard deviations away
    assert quantizer.codebook.isfinite().all()
    assert out.loss.isfinite()
