"""Metropolis independence sampling of discrete codes from a posterior known up to a factor.

Shapes: B samples of a batch, P positions of a code, K categories, L proposals, S = L + 1 candidates (the chain's state,
then the proposals), w(h) = p(x, h) / q(h | x) the importance weight of a code h.

Random numbers are passed as uniform numbers, so that a draw can depend on the sample and the step alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Chain(NamedTuple):
    """The states of a Markov chain, one chain per sample of the batch.

    Attributes:
        states: Codes (B, S, P) int64, the initial state first.
        weights: Fraction of the chain's steps in each state, (B, S), rows sum to 1: the average over ``states`` with
            these weights is that over all steps, and states of weight 0 need not be decoded.
        last: The last state (B, P).
        accepted: Whether each step was accepted, (B, L) bool.
    """

    states: Tensor
    weights: Tensor
    last: Tensor
    accepted: Tensor


def propose(log_q: Tensor, uniform: Tensor) -> Tensor:
    """Draw codes from a product of categoricals, by inversion of its distribution function.

    Args:
        log_q: Log-probabilities (B, P, K).
        uniform: Numbers (B, L, P) in (0, 1).

    Returns:
        Codes (B, L, P) int64.

    Example:
        >>> log_q = torch.tensor([[[0.2, 0.5, 0.3]]]).log()
        >>> propose(log_q, torch.tensor([0.1, 0.3, 0.6, 0.8])[None, :, None]).flatten().tolist()
        [0, 1, 1, 2]
    """
    # Single precision is off by about 1e-7 in a probability, and several times as fast as double.
    cumulated = log_q.exp().cumsum(-1)
    place = uniform.to(cumulated).transpose(1, 2).contiguous() * cumulated[..., -1:]  # (B, P, L)
    # Rounding may put `place` on the end itself, beyond the last category with a positive probability.
    place = torch.minimum(place, torch.nextafter(cumulated[..., -1:], torch.zeros_like(cumulated[..., -1:])))
    return torch.searchsorted(cumulated, place, right=True).transpose(1, 2)


def log_prob(log_q: Tensor, codes: Tensor) -> Tensor:
    """Return ln q (B, S) of ``codes`` (B, S, P) under a product of categoricals with log-probabilities (B, P, K)."""
    return log_q.gather(2, codes.transpose(1, 2)).sum(1)


def mis(log_w: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Run a Metropolis independence chain over candidates whose weights are known.

    A proposal h' is accepted with probability min(1, w(h') / w(h)), else the state is kept and counts again (Ou and
    Song 2020, arXiv:2005.14001, section 2). The chain is a scan over scalars: the expensive part, the weights, is
    computed before, in one batch.

    Args:
        log_w: ln w up to a constant per sample (B, S) float32, the chain's state first.
        uniform: Numbers (B, L) in (0, 1).

    Returns:
        Fraction of the steps in each candidate (B, S); the last state's number (B,); whether each step was accepted
        (B, L) bool.

    Example:
        >>> weights, last, accepted = mis(torch.tensor([[0.0, 1.0, -9.0]]), torch.tensor([[0.5, 0.5]]))
        >>> weights.tolist(), last.tolist(), accepted.tolist()
        ([[0.0, 1.0, 0.0]], [1], [[True, False]])
    """
    path, accepted = _scan(log_w, uniform)
    weights = torch.zeros_like(log_w).scatter_add_(1, path, torch.ones_like(log_w[:, 1:]))
    return weights / path.shape[1], path[:, -1], accepted


def mis_rb(log_w: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`mis`, but each step counts for both of its ends, by the probability of acceptance (Rao-Blackwell).

    Rejected proposals count, too ("waste recycling", Frenkel 2004), so more states must be decoded.
    """
    path, accepted = _scan(log_w, uniform)
    before = torch.cat([torch.zeros_like(path[:, :1]), path[:, :-1]], 1)
    chance = (log_w[:, 1:] - log_w.gather(1, before)).exp().clamp_max(1).nan_to_num(0)  # NaN: both impossible
    weights = torch.zeros_like(log_w)
    weights[:, 1:] += chance
    weights.scatter_add_(1, before, 1 - chance)
    return weights / path.shape[1], path[:, -1], accepted


def isir(log_w: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Iterated sampling importance resampling: draw the next state from all candidates by their weights, at once.

    Arguments and results as in :func:`mis`; only the first column of ``uniform`` is used. Each candidate has its
    normalised weight. With a stored state as first candidate this is Markovian score climbing (Naesseth et al. 2020,
    arXiv:2003.10374); with a new draw in its place it is reweighted wake-sleep (Bornschein and Bengio 2015,
    arXiv:1406.2751).
    """
    log_weights = log_w.log_softmax(1)
    last = propose(log_weights[:, None], uniform[:, :1, None])[:, 0, 0]
    accepted = torch.zeros_like(log_w[:, 1:], dtype=torch.bool)
    accepted[:, 0] = last > 0  # all candidates together are one step
    return log_weights.exp(), last, accepted


KERNELS = {"mis": mis, "mis_rb": mis_rb, "isir": isir}


def global_chain(
    log_weight: Callable[[Tensor], Tensor],
    initial: Tensor,
    proposals: Tensor,
    uniform: Tensor,
    kernel: str = "mis",
) -> Chain:
    """Run a chain whose steps each propose a complete code.

    Args:
        log_weight: Codes (B, S, P) to ln w (B, S), up to a constant per sample.
        initial: The chain's state (B, P).
        proposals: Codes (B, L, P) drawn from q.
        uniform: Numbers (B, L) in (0, 1).
        kernel: ``mis``, ``mis_rb`` or ``isir``.
    """
    states = torch.cat([initial[:, None], proposals], 1)
    weights, last, accepted = KERNELS[kernel](log_weight(states), uniform)
    return Chain(states, weights, states[torch.arange(len(states), device=states.device), last], accepted)


def blockwise_chain(
    log_weight: Callable[[Tensor], Tensor],
    initial: Tensor,
    proposals: Tensor,
    uniform: Tensor,
    blocks: Tensor,
) -> Chain:
    """Run a chain whose steps each propose one block of positions and keep the others.

    Because q is a product over positions, the factors of the other positions cancel, so that min(1, w(h') / w(h)) is
    the correct acceptance probability for any decoder. A smaller change is accepted more often; but each state depends
    on the last decision, so the states are decoded one after the other.

    Args:
        log_weight: Codes (B, S, P) to ln w (B, S), up to a constant per sample.
        initial: The chain's state (B, P).
        proposals: Codes (B, L, P) drawn from q.
        uniform: Numbers (B, L) in (0, 1).
        blocks: The positions that each step replaces, (L, P) bool; in an order that does not depend on the states.
    """
    log_u, state = uniform.log(), initial
    current = log_weight(initial[:, None])[:, 0]
    states, accepted = [initial], []
    for step in range(proposals.shape[1]):
        candidate = torch.where(blocks[step], proposals[:, step], state)
        new = log_weight(candidate[:, None])[:, 0]
        accept = log_u[:, step] < new - current
        state, current = torch.where(accept[:, None], candidate, state), torch.where(accept, new, current)
        states.append(state)
        accepted.append(accept)
    accepts = torch.stack(accepted, 1)
    # The state is constant until the next acceptance: the first of equal states gets their total weight.
    place = torch.arange(1, len(states), device=initial.device)
    path = (place * accepts).cummax(1).values
    weights = current.new_zeros(len(initial), len(states)).scatter_add_(1, path, torch.ones_like(uniform).to(current))
    return Chain(torch.stack(states, 1), weights / path.shape[1], state, accepts)


def block_masks(pattern: str, height: int, width: int, depth: int = 1, size: int = 2) -> Tensor:
    """Divide the positions of a code into blocks.

    Args:
        pattern: ``rows``; ``patches`` of size x size; ``checkerboard``, every size-th position in both directions.
        height: Height of the map of codes.
        width: Width of the map.
        depth: Codes per position of the map, all in one block.
        size: See ``pattern``.

    Returns:
        (blocks, height * width * depth) bool; each position lies in one block.

    Example:
        >>> block_masks("checkerboard", 2, 4).int().tolist()
        [[1, 0, 1, 0, 0, 0, 0, 0], [0, 1, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 1, 0, 1]]
    """
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    number = {
        "rows": row,
        "patches": row // size * width + column // size,
        "checkerboard": row % size * width + column % size,
    }[pattern]
    return torch.stack([number == n for n in number.unique()]).flatten(1).repeat_interleave(depth, 1)


def _scan(log_w: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Return the candidate that the chain is in after each step, (B, L), and whether it moved, (B, L)."""
    log_u = uniform.log()
    state, current = torch.zeros_like(log_w[:, 0], dtype=torch.int64), log_w[:, 0]
    path, accepted = [], []
    for step in range(1, log_w.shape[1]):
        accept = log_u[:, step - 1] < log_w[:, step] - current
        state, current = torch.where(accept, step, state), torch.where(accept, log_w[:, step], current)
        path.append(state)
        accepted.append(accept)
    return torch.stack(path, 1), torch.stack(accepted, 1)
