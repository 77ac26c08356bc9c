"""IBQ against gradients in closed form; test_family_gradients has the formulas of the loss."""

import pytest
import torch

from tests.helpers.family import rand64 as rand
from vqlab.quantizers.ibq import IBQ

K, D = 9, 4


def make(*args, **kwargs):
    return IBQ(K, D, *args, **kwargs).double()


def softmax(scores):
    powers = (scores - scores.max(1, keepdim=True).values).exp()
    return powers / powers.sum(1, keepdim=True)


def test_gradient_of_the_output_in_closed_form():
    """dq/dz = Cov_p(c), the covariance of the codes under p; every code moves, through p, and the drawn ones twice."""
    quantizer = make()
    z, g = rand(30, D, seed=3).requires_grad_(), rand(30, D, seed=4)
    out = quantizer(z)
    out.quantized.backward(g)
    codes = quantizer.codebook.detach()
    p = softmax(z.detach() @ codes.T)
    by_row = []
    for n in range(30):
        mean = p[n] @ codes
        by_row.append(sum(p[n, k] * torch.outer(codes[k] - mean, codes[k] - mean) for k in range(K)) @ g[n])
    torch.testing.assert_close(z.grad, torch.stack(by_row), rtol=1e-10, atol=1e-12)
    expected = torch.zeros(K, D).double()
    for n in range(30):
        expected[out.indices[n]] += g[n]
        scores = codes @ g[n]
        expected += torch.outer(p[n] * (scores - p[n] @ scores), z[n].detach())
    torch.testing.assert_close(quantizer.codebook.grad, expected, rtol=1e-10, atol=1e-12)


def test_a_few_steps_bring_codes_and_vectors_together():
    torch.manual_seed(0)
    centers = 3 * torch.randn(6, D)
    quantizer = IBQ(12, D)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.03)
    losses = []
    for _ in range(150):
        out = quantizer(centers[torch.randint(6, (64,))] + 0.1 * torch.randn(64, D))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.terms["double_quantization_loss"].item())
    assert losses[-1] < losses[0] / 5


def test_the_seed_draws_the_codes():
    first, same, other = (IBQ(500, 20, seed=seed).codebook.detach() for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.isclose(first, other).all(1).any()
    assert first.mean().item() == pytest.approx(0, abs=0.05)
    assert first.std().item() == pytest.approx(1, abs=0.05)
