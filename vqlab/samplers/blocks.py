"""Chains that change a block of positions of a code at a time, for codes of many positions.

A new code of all positions is rarely accepted; a new block is, because the other positions stay. Each step costs one
evaluation of p(x, h), one after the other. Shapes as in :mod:`vqlab.samplers.independence`, with s positions per block.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vqlab.samplers.independence import Chain, propose


def run_blocks(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    proposal: Callable[[Tensor, Tensor, Tensor], Tensor],
    initial: Tensor,
    uniform: Tensor,
    block_size: int,
) -> Chain:
    """Run Metropolis-Hastings chains that propose new values for one block per step.

    The blocks are parts of a random order of the positions, so that all positions are visited equally often.

    Args:
        evaluate: Maps codes (B, P) to ln p (B,), up to a constant, and a tensor (B, ...) for the proposal.
        proposal: Maps codes (B, P), their tensor of ``evaluate`` and positions (B, s) to the probabilities of the
            proposed values, ln r (B, s, K), which may depend on the whole code.
        initial: First states (B, P) int64.
        uniform: Numbers in (0, 1), (B, L + 1, P + 1): a row for the order of the positions, then one for each step.
        block_size: Positions per block, s, at most P.

    Example:
        >>> log_p = torch.tensor([0.1, 0.2, 0.7]).log()  # of each value, at both positions
        >>> any_value = lambda codes, _, positions: log_p.new_zeros(*positions.shape, 3).log_softmax(-1)
        >>> evaluate = lambda codes: (log_p[codes].sum(1), codes)
        >>> initial, uniform = torch.zeros(20_000, 2, dtype=torch.int64), torch.rand(20_000, 31, 3)
        >>> chain = run_blocks(evaluate, any_value, initial, uniform, block_size=1)
        >>> bool(((chain.last == 2).float().mean(0) - 0.7).abs().max() < 0.02)
        True
    """
    order, size = uniform[:, 0, 1:].argsort(1), initial.shape[1]
    state, (log_p, local) = initial, evaluate(initial)
    candidates, accepted, moved = [initial], [], []
    for step in range(1, uniform.shape[1]):
        block = torch.arange((step - 1) * block_size, step * block_size, device=order.device) % size
        positions = order[:, block]
        log_r = proposal(state, local, positions)
        drawn = propose(log_r, uniform[:, step, None, 1 : block_size + 1])[:, 0]
        candidate = state.scatter(1, positions, drawn)
        new_log_p, new_local = evaluate(candidate)
        log_back = proposal(candidate, new_local, positions)
        log_ratio = new_log_p - log_p + _total(log_back, state.gather(1, positions)) - _total(log_r, drawn)
        accept = uniform[:, step, 0].log() < log_ratio
        moved.append(accept & (candidate != state).any(1))  # the proposal may be the state
        state, log_p = torch.where(accept[:, None], candidate, state), torch.where(accept, new_log_p, log_p)
        local = torch.where(accept.view(-1, *[1] * (local.ndim - 1)), new_local, local)
        candidates.append(candidate)
        accepted.append(accept)
    return _chain(candidates, moved)._replace(accepted=torch.stack(accepted, 1))


def run_gibbs(log_p: Callable[[Tensor], Tensor], initial: Tensor, uniform: Tensor, num_embeddings: int) -> Chain:
    """Run Gibbs chains, which draw one position per step from its exact conditional.

    ``log_p`` maps codes (B, K, P), with each of the K = ``num_embeddings`` values at a position, to ln p (B, K), up to
    a constant. ``initial`` and ``uniform`` are as for :func:`run_blocks`. A step that keeps the value is no accepted
    one.
    """
    order, size = uniform[:, 0, 1:].argsort(1), initial.shape[1]
    values = torch.arange(num_embeddings, device=initial.device).expand(len(initial), -1)[..., None]
    candidates, moved = [initial], []
    for step in range(1, uniform.shape[1]):
        position, state = order[:, (step - 1) % size, None], candidates[-1]
        every = state[:, None].expand(-1, num_embeddings, -1)
        every = every.scatter(2, position[:, None].expand_as(values), values)
        drawn = propose(log_p(every).log_softmax(1)[:, None], uniform[:, step, None, 1:2])[:, 0]
        candidates.append(state.scatter(1, position, drawn))
        moved.append((candidates[-1] != state).any(1))
    return _chain(candidates, moved)


def norm_constrained(gradient: Tensor, current: Tensor, codebook: Tensor, step_size: float | Tensor) -> Tensor:
    """Return the norm-constrained gradient proposal (Rhodes and Gutmann 2022, arXiv:2208.00040), ln r (B, s, K).

    r(k) is proportional to exp(g . (e_k - e) / 2 - |e_k - e|^2 / (2 ``step_size``)): the square root of the ratio of
    probabilities to first order, as in a locally informed proposal (Zanella 2020, arXiv:1711.07424), near the present
    embedding e.

    Args:
        gradient: g, of ln p by the embedding of each position, (B, s, D).
        current: e, the present embeddings (B, s, D).
        codebook: e_k, the embeddings of all values (B, s, K, D), or (K, D) for all positions.
        step_size: In squared units of the embeddings.

    Example:
        >>> codebook = torch.tensor([[0.0], [1.0], [2.0]])
        >>> log_r = norm_constrained(torch.tensor([[[6.0]]]), codebook[None, :1], codebook, step_size=0.5)
        >>> [round(value, 3) for value in log_r.exp().flatten().tolist()]
        [0.063, 0.468, 0.468]
    """
    direction = gradient / 2 + current / step_size
    inner = (codebook @ direction[..., None])[..., 0] if codebook.ndim == 4 else direction @ codebook.T
    return (inner - codebook.square().sum(-1) / (2 * step_size)).log_softmax(-1)


def _total(log_r: Tensor, values: Tensor) -> Tensor:
    """Return the sum (B,) of ln r (B, s, K) of ``values`` (B, s)."""
    return log_r.gather(2, values[..., None]).sum((1, 2))


def _chain(candidates: list[Tensor], moved: list[Tensor]) -> Chain:
    """Return the chain of the first of the L + 1 ``candidates`` (B, P) and those of the steps that ``moved``, (B,)."""
    states, moves = torch.stack(candidates, 1), torch.stack(moved, 1)
    steps = torch.arange(1, states.shape[1], device=states.device)
    path = torch.where(moves, steps, 0).cummax(1).values  # the number of the state after each step
    weights = F.one_hot(path, states.shape[1]).float().mean(1)
    return Chain(states, weights, states[torch.arange(len(states), device=states.device), path[:, -1]], moves)
