"""Gradient estimators against matrices written out in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from vqlab.quantizers.estimators import rotation_trick, straight_through
from vqlab.quantizers.vector import VectorQuantizer


def rand(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rotation_matrix(z, q):
    """(|q| / |z|, R) for one pair of vectors, from the definition R = I - 2 r r^T + 2 q^ z^T."""
    z, q = z.double(), q.double()
    z_unit, q_unit = z / z.norm(), q / q.norm()
    r = (z_unit + q_unit) / (z_unit + q_unit).norm()
    return q.norm() / z.norm(), torch.eye(len(z)).double() - 2 * torch.outer(r, r) + 2 * torch.outer(q_unit, z_unit)


def jacobian(estimator, z, q):
    """dq/dz (D, D) of one row, by autograd."""
    return torch.autograd.functional.jacobian(lambda x: estimator(x[None], q[None])[0], z)


@pytest.mark.parametrize("estimator", [straight_through, rotation_trick])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_value_is_q_to_the_last_bit(estimator, dtype):
    z, q = rand(500, 7, seed=1, dtype=dtype).requires_grad_(), 1e-3 * rand(500, 7, seed=2, dtype=dtype)
    assert torch.equal(estimator(z, q), q)


def test_straight_through_gradient_is_the_identity():
    z, q, g = rand(5, 4, seed=1).requires_grad_(), rand(5, 4, seed=2), rand(5, 4, seed=3)
    straight_through(z, q).backward(g)
    assert torch.equal(z.grad, g)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("dim", [1, 2, 5, 32])
def test_rotation_gradient_equals_the_matrix(dim, dtype, tolerance):
    z, q, g = (rand(20, dim, seed=seed, dtype=dtype) for seed in (4, 5, 6))
    if dim == 1:
        q = z.abs().sqrt() * z.sign()  # in one dimension only parallel vectors have a rotation
    z.requires_grad_()
    rotation_trick(z, q).backward(g)
    for n in range(20):
        scale, matrix = rotation_matrix(z[n].detach(), q[n])
        expected = scale * matrix.T @ g[n].double()
        torch.testing.assert_close(z.grad[n].double(), expected, rtol=tolerance, atol=tolerance * scale.item())


@pytest.mark.parametrize("seed", range(5))
def test_rotation_is_orthogonal_and_takes_z_to_q(seed):
    z, q = rand(6, seed=seed), rand(6, seed=seed + 100)
    turned = jacobian(rotation_trick, z, q) * z.norm() / q.norm()
    torch.testing.assert_close(turned @ turned.T, torch.eye(6).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(turned @ z / z.norm(), q / q.norm(), rtol=0, atol=1e-12)
    assert torch.linalg.det(turned).item() == pytest.approx(1)


def test_rotation_is_the_linear_map_with_frozen_constants():
    """Gradcheck of z -> scale R z, and its finite-difference Jacobian is the estimator's."""
    z, q = rand(5, seed=7), rand(5, seed=8)
    scale, matrix = rotation_matrix(z, q)
    assert torch.autograd.gradcheck(lambda x: scale * matrix @ x, z.clone().requires_grad_())
    step = 1e-6
    columns = [scale * matrix @ (z + step * e) - scale * matrix @ (z - step * e) for e in torch.eye(5).double()]
    numeric = torch.stack(columns, 1) / (2 * step)
    torch.testing.assert_close(jacobian(rotation_trick, z, q), numeric, rtol=0, atol=1e-8)


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


@pytest.mark.parametrize("estimator", ["ste", "rotation"])
def test_the_quantizer_uses_its_estimator(estimator):
    quantizer = VectorQuantizer(6, 4, estimator=estimator, init="uniform", commitment_weight=0).double().eval()
    z, g = rand(10, 4, seed=9).requires_grad_(), rand(10, 4, seed=10)
    out = quantizer(z)
    out.quantized.backward(g)
    for n in range(10):
        scale, matrix = rotation_matrix(z[n].detach(), out.quantized[n].detach())
        expected = g[n] if estimator == "ste" else scale * matrix.T @ g[n]
        torch.testing.assert_close(z.grad[n], expected)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_gradcheck_of_the_losses(distance):
    z = rand(3, 4, 5, seed=11)
    ema = VectorQuantizer(6, 4, commitment_weight=0.7, init="uniform", distance=distance).double().eval()
    assert torch.autograd.gradcheck(lambda x: ema(x).loss, z.clone().requires_grad_(), atol=1e-8)

    rule = VectorQuantizer(6, 4, commitment_weight=0, codebook_update="loss", init="uniform", distance=distance)
    rule = rule.double().eval()
    codebook = F.normalize(rand(6, 4, seed=12), dim=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda e: functional_call(rule, {"codebook": e}, (z,)).loss, codebook, atol=1e-8)
