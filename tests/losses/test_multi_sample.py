"""The estimators against exact gradients of their bounds: all samples are enumerated in float64."""

import itertools

import pytest
import torch

from vqlab.losses import rloo_loss, vimco_loss

K, B = 3, 2


def tables():
    """Parameters of ln p(x, h) (2, 3) and logits of q (2, 3)."""
    return (torch.randn(B, K, dtype=torch.float64, requires_grad=True) for _ in range(2))


def expectation(loss, log_p, logits, num):
    """Mean of ``loss`` over all samples of ``num`` codes, weighted by their probabilities without gradient."""
    log_q, total = logits.log_softmax(1), 0.0
    for codes in itertools.product(range(K), repeat=num):
        index = torch.tensor(codes).expand(B, -1)
        log_q_of_codes = log_q.gather(1, index)
        probability = log_q_of_codes.detach().sum(1).exp()
        for image in range(B):  # one at a time: their probabilities differ
            row = slice(image, image + 1)
            total = total + probability[image] * loss(log_p.gather(1, index)[row], log_q_of_codes[row]) / B
    return total


@pytest.mark.parametrize(("loss", "bound"), [(rloo_loss, lambda w: w.mean(1)), (vimco_loss, lambda w: w.logsumexp(1))])
@pytest.mark.parametrize("num", [2, 4])
def test_gradient_of_the_bound_is_unbiased(loss, bound, num):
    """The bound of RLOO is the ELBO; that of VIMCO is tighter."""
    log_p, logits = tables()
    log_q, exact = logits.log_softmax(1), 0.0
    for codes in itertools.product(range(K), repeat=num):
        index = torch.tensor(codes).expand(B, -1)
        probability = log_q.gather(1, index).sum(1).exp()  # with its gradient, unlike above
        exact = exact + (probability * bound((log_p - log_q).gather(1, index))).mean()
    expected = torch.autograd.grad(-exact, (log_p, logits))
    found = torch.autograd.grad(expectation(loss, log_p, logits, num), (log_p, logits))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)


def test_rloo_gradient_is_smaller_than_without_a_baseline():
    log_p, log_q = torch.randn(1, 6) - 50, torch.zeros(1, 6, requires_grad=True)
    (found,) = torch.autograd.grad(rloo_loss(log_p, log_q), log_q)
    plain = (log_p - log_q).detach() / 6
    assert found.norm() < plain.norm() / 10
