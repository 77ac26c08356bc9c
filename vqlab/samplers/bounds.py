"""Bounds of ln p(x) from draws from q(h | x).

Shapes: B samples, S draws, log_w = ln p(x, h_s) - ln q(h_s | x) (B, S).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vqlab.samplers.independence import mis


class NLLBounds(NamedTuple):
    """Bounds of -ln p(x) in nats, (B,) each: ``chain`` <= -ln p(x) <= ``importance`` <= ``elbo``, in expectation.

    Attributes:
        elbo: Mean of -ln w over draws from q; too high by KL(q || p(h | x)).
        importance: -ln of the mean of w over these draws; converges to -ln p(x) as S grows.
        chain: Mean of -ln w over a Metropolis chain; at its stationary distribution too low by KL(p(h | x) || q).
    """

    elbo: Tensor
    importance: Tensor
    chain: Tensor


def bracket(log_w: Tensor, uniform: Tensor) -> NLLBounds:
    """Bound -ln p(x) from both sides with the same S draws from q.

    If ``chain`` and ``importance`` differ much, S is too small for the posterior. The first half of the chain, which
    starts at a draw from q, is discarded.

    Args:
        log_w: (B, S) with all constants of ln p(x, h).
        uniform: Numbers (B, S - 1) in (0, 1), for the chain.

    Example:
        >>> same = bracket(torch.full((1, 4), -7.0), torch.full((1, 3), 0.5))  # q is the posterior
        >>> [round(value.item(), 3) for value in same]
        [7.0, 7.0, 7.0]
    """
    num = log_w.shape[1]
    importance = math.log(num) - log_w.logsumexp(1)
    half = num // 2
    burnt = mis(log_w[:, : half + 1], uniform[:, :half])[1] if half else torch.zeros_like(log_w[:, 0]).long()
    rest = torch.cat([log_w.gather(1, burnt[:, None]), log_w[:, half + 1 :]], 1)
    weights = mis(rest, uniform[:, half:])[0] if rest.shape[1] > 1 else torch.ones_like(rest)
    chain = -torch.where(weights > 0, weights * rest, 0).sum(1)  # a state of weight 0 may have w = 0
    return NLLBounds(-log_w.mean(1), importance, chain)
