"""IBQ against gradients in closed form, and trained; test_family_gradients has the formulas of the loss."""

import torch

from tests.helpers.family import rand64 as rand
from vqlab.quantizers.ibq import IBQ


def test_gradient_of_the_output_in_closed_form():
    """dq/dz = Cov_p(c), the covariance of the codes under p; every code moves, through p, and the drawn ones twice."""
    quantizer = IBQ(9, 4).double()
    z, g = rand(30, 4, seed=3).requires_grad_(), rand(30, 4, seed=4)
    out = quantizer(z)
    out.quantized.backward(g)
    codes = quantizer.codebook.detach()
    expected = torch.zeros_like(codes)
    for n, p in enumerate((z.detach() @ codes.T).softmax(1)):
        away = codes - p @ codes
        torch.testing.assert_close(z.grad[n], (p[:, None] * away).T @ away @ g[n], rtol=1e-10, atol=1e-12)
        expected[out.indices[n]] += g[n]
        expected += torch.outer(p * (away @ g[n]), z[n].detach())
    torch.testing.assert_close(quantizer.codebook.grad, expected, rtol=1e-10, atol=1e-12)


def test_a_few_steps_bring_codes_and_vectors_together():
    torch.manual_seed(0)
    centers, quantizer, losses = 3 * torch.randn(6, 4), IBQ(12, 4), []
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.03)
    for _ in range(150):
        out = quantizer(centers[torch.randint(6, (64,))] + 0.1 * torch.randn(64, 4))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.terms["double_quantization_loss"].item())
    assert losses[-1] < losses[0] / 5
