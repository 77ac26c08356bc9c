"""Metropolis independence sampling of discrete codes from an unnormalised posterior, and bounds of ln p(x).

Shapes: B samples of a batch, P positions of a code, K categories, L proposals, S = L + 1 candidates (the state of the
chain, then the proposals); w(h) = p(x, h) / q(h | x) is the importance weight of a code h. Uniform random numbers are
arguments, so that a draw can depend on sample and step only.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Chain(NamedTuple):
    """One Markov chain per sample."""

    states: Tensor  # codes (B, S, P) int64, the initial state first
    weights: Tensor  # fraction of the steps in each state, (B, S)
    last: Tensor  # the last state (B, P)
    accepted: Tensor  # whether each step was accepted, (B, L) bool


class NLLBounds(NamedTuple):
    """Bounds of -ln p(x) in nats, (B,) each: ``chain`` <= -ln p(x) <= ``importance`` <= ``elbo``, in expectation."""

    elbo: Tensor  # mean of -ln w over draws from q; too high by KL(q || p(h | x))
    importance: Tensor  # -ln of the mean of w over these draws; converges to -ln p(x) as S grows
    chain: Tensor  # mean of -ln w over a stationary Metropolis chain; too low by KL(p(h | x) || q)


def propose(log_q: Tensor, uniform: Tensor) -> Tensor:
    """Draw codes (B, L, P) from categoricals ``log_q`` (B, P, K) by inversion of ``uniform`` (B, L, P) in (0, 1).

    Example:
        >>> log_q = torch.tensor([[[0.2, 0.5, 0.3]]]).log()
        >>> propose(log_q, torch.tensor([0.1, 0.3, 0.6, 0.8])[None, :, None]).flatten().tolist()
        [0, 1, 1, 2]
    """
    cumulated = log_q.exp().cumsum(-1)
    total = cumulated[..., -1:]
    place = uniform.to(cumulated).transpose(1, 2).contiguous() * total  # (B, P, L)
    # Rounding may give the total, which lies beyond the last category with a positive probability.
    place = torch.minimum(place, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulated, place, right=True).transpose(1, 2)


def log_prob(log_q: Tensor, codes: Tensor) -> Tensor:
    """Return ln q (B, S) of ``codes`` (B, S, P) under a product of categoricals with log-probabilities (B, P, K)."""
    return log_q.gather(2, codes.transpose(1, 2)).sum(1)


def mis(log_w: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Run a Metropolis independence chain over candidates (Ou and Song 2020, section 2).

    Accept a proposal h' with probability min(1, w(h') / w(h)), otherwise count the state again. From ln w up to a
    constant (B, S) and ``uniform`` (B, L) in (0, 1), return the fraction of the steps in each candidate (B, S), the
    number of the last state (B,), and the accepted steps (B, L) bool.

    Example:
        >>> weights, last, accepted = mis(torch.tensor([[0.0, 1.0, -9.0]]), torch.tensor([[0.5, 0.5]]))
        >>> weights.tolist(), last.tolist(), accepted.tolist()
        ([[0.0, 1.0, 0.0]], [1], [[True, False]])
    """
    path, accepted = _scan(log_w, uniform)
    weights = torch.zeros_like(log_w).scatter_add_(1, path, torch.ones_like(log_w[:, 1:]))
    return weights / path.shape[1], path[:, -1], accepted


def mis_rb(log_w: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Run :func:`mis`, and weight proposals by their acceptance probability ("waste recycling", Frenkel 2004)."""
    path, accepted = _scan(log_w, uniform)
    before = torch.cat([torch.zeros_like(path[:, :1]), path[:, :-1]], 1)
    chance = (log_w[:, 1:] - log_w.gather(1, before)).exp().clamp_max(1).nan_to_num(0)  # NaN: both impossible
    weights = torch.zeros_like(log_w)
    weights[:, 1:] += chance
    weights.scatter_add_(1, before, 1 - chance)
    return weights / path.shape[1], path[:, -1], accepted


def isir(log_w: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Run iterated sampling importance resampling: as :func:`mis`, but draw one next state from all candidates by w.

    With a stored state as first candidate this is Markovian score climbing (Naesseth et al. 2020, arXiv:2003.10374),
    with a new draw it is reweighted wake-sleep (Bornschein and Bengio 2015, arXiv:1406.2751).
    """
    log_weights = log_w.log_softmax(1)
    last = propose(log_weights[:, None], uniform[:, :1, None])[:, 0, 0]
    accepted = torch.zeros_like(log_w[:, 1:], dtype=torch.bool)
    accepted[:, 0] = last > 0  # there is only one step
    return log_weights.exp(), last, accepted


KERNELS = {"mis": mis, "mis_rb": mis_rb, "isir": isir}


def run_chain(
    log_weight: Callable[[Tensor], Tensor], initial: Tensor, proposals: Tensor, uniform: Tensor, kernel: str = "mis"
) -> Chain:
    """Run a chain from ``initial`` (B, P) over ``proposals`` (B, L, P), which are drawn from q.

    ``log_weight`` maps codes (B, S, P) to ln w (B, S), up to a constant; ``uniform`` (B, L) is in (0, 1).
    """
    states = torch.cat([initial[:, None], proposals], 1)
    weights, last, accepted = KERNELS[kernel](log_weight(states), uniform)
    return Chain(states, weights, states[torch.arange(len(states), device=states.device), last], accepted)


def nll_bounds(log_w: Tensor, uniform: Tensor) -> NLLBounds:
    """Bound -ln p(x) from both sides with the same S draws from q; S is too small if the bounds differ much.

    ``log_w`` (B, S) includes all constants of ln p(x, h); ``uniform`` (B, S - 1) in (0, 1) is for the chain, whose
    first half is discarded.
    """
    num, half = log_w.shape[1], log_w.shape[1] // 2
    importance = math.log(num) - log_w.logsumexp(1)
    start = mis(log_w[:, : half + 1], uniform[:, :half])[1] if half else torch.zeros_like(log_w[:, 0]).long()
    rest = torch.cat([log_w.gather(1, start[:, None]), log_w[:, half + 1 :]], 1)
    weights = mis(rest, uniform[:, half:])[0] if rest.shape[1] > 1 else torch.ones_like(rest)
    chain = -torch.where(weights > 0, weights * rest, 0).sum(1)  # a state of weight 0 may have w = 0
    return NLLBounds(-log_w.mean(1), importance, chain)


def _scan(log_w: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of the candidate after each step, (B, L), and whether the chain moved, (B, L)."""
    log_u = uniform.log()
    state, current = torch.zeros_like(log_w[:, 0], dtype=torch.int64), log_w[:, 0]
    path, accepted = [], []
    for step in range(1, log_w.shape[1]):
        accept = log_u[:, step - 1] < log_w[:, step] - current
        state, current = torch.where(accept, step, state), torch.where(accept, log_w[:, step], current)
        path.append(state)
        accepted.append(accept)
    return torch.stack(path, 1), torch.stack(accepted, 1)
