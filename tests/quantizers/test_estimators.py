"""Gradient estimators against matrices written out in float64."""

import pytest
import torch

from tests.helpers.family import rand as rand_float
from vqlab.quantizers.estimators import rotation_trick


def rand(*shape, seed, dtype=torch.float64):
    return rand_float(*shape, seed=seed, dtype=dtype)


def jacobian(estimator, z, q):
    """dq/dz (D, D) of one row, by autograd."""
    return torch.autograd.functional.jacobian(lambda x: estimator(x[None], q[None])[0], z)


@pytest.mark.parametrize("seed", range(5))
def test_rotation_is_orthogonal_and_takes_z_to_q(seed):
    z, q = rand(6, seed=seed), rand(6, seed=seed + 100)
    turned = jacobian(rotation_trick, z, q) * z.norm() / q.norm()
    torch.testing.assert_close(turned @ turned.T, torch.eye(6).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(turned @ z / z.norm(), q / q.norm(), rtol=0, atol=1e-12)
    assert torch.linalg.det(turned).item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("z", "q"),
    [
        ([1.0, -2.0, 0.5], [-1.0, 2.0, -0.5]),
        ([1.0, -2.0, 0.5], [-3.0, 6.0, -1.5]),
        ([0.0, 0.0, 0.0], [1.0, 2.0, 3.0]),
        ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_rotation_falls_back_to_straight_through(z, q, dtype):
    z, q = torch.tensor(z, dtype=dtype), torch.tensor(q, dtype=dtype)
    assert torch.equal(rotation_trick(z[None], q[None])[0], q)
    assert torch.equal(jacobian(rotation_trick, z, q), torch.eye(3, dtype=dtype))
