"""The estimators against gradients of what they are meant to ascend, all draws enumerated in float64."""

import itertools

import torch

from vqlab.losses.multi_sample import rloo_loss, vimco_loss

K, B = 3, 2


def tables():
    """Parameters of ln p(x, h) (2, 3) and logits of q (2, 3)."""
    return (torch.randn(B, K, dtype=torch.float64, requires_grad=True) for _ in range(2))


def expectation(loss, log_p, logits, num):
    """Mean of ``loss`` over all draws of ``num`` codes, each weighed by its probability, which has no gradient."""
    log_q, total = logits.log_softmax(1), 0.0
    for codes in itertools.product(range(K), repeat=num):
        index = torch.tensor(codes).expand(B, -1)
        log_q_of_codes = log_q.gather(1, index)
        chance = log_q_of_codes.detach().sum(1).exp()
        for image in range(B):  # one at a time, for each has a probability of its own
            row = slice(image, image + 1)
            total = total + chance[image] * loss(log_p.gather(1, index)[row], log_q_of_codes[row]) / B
    return total


def test_rloo_ascends_the_elbo_without_bias():
    log_p, logits = tables()
    log_q = logits.log_softmax(1)
    elbo = (log_q.exp() * (log_p - log_q)).sum(1).mean()
    expected = torch.autograd.grad(-elbo, (log_p, logits))
    for num in (2, 4):
        found = torch.autograd.grad(expectation(rloo_loss, log_p, logits, num), (log_p, logits))
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-9)


def test_vimco_ascends_its_bound_without_bias():
    log_p, logits = tables()
    for num in (2, 4):
        bound, log_q = 0.0, logits.log_softmax(1)
        for codes in itertools.product(range(K), repeat=num):
            index = torch.tensor(codes).expand(B, -1)
            chance = log_q.gather(1, index).sum(1).exp()  # with its gradient, unlike above
            bound = bound + (chance * (log_p - log_q).gather(1, index).logsumexp(1)).mean()
        expected = torch.autograd.grad(-bound, (log_p, logits))
        found = torch.autograd.grad(expectation(vimco_loss, log_p, logits, num), (log_p, logits))
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-9)


def test_baselines_lower_the_variance():
    """Against the plain score function, of whose signal nothing is subtracted."""
    log_p, log_q = torch.randn(1, 6) - 50, torch.zeros(1, 6, requires_grad=True)
    (found,) = torch.autograd.grad(rloo_loss(log_p, log_q), log_q)
    plain = (log_p - log_q).detach() / 6
    assert found.norm() < plain.norm() / 10
