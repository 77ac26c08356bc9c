"""Langevin chains with an accept step, for continuous variables."""

from collections.abc import Callable

import torch
from torch import Tensor


def mala(
    log_p: Callable[[Tensor], Tensor], x: Tensor, step_size: float, normal: Tensor, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """Run Metropolis-adjusted Langevin chains (Roberts and Tweedie 1996).

    A step proposes x' = x + step_size^2 / 2 grad ln p(x) + step_size * normal, and accepts it by the rule of Metropolis
    and Hastings, so that p is the stationary distribution for any step size.

    Args:
        log_p: Maps x (B, ...) to ln p (B,), up to a constant; differentiable.
        x: First states (B, ...).
        step_size: Standard deviation of the noise of a step, in the units of x.
        normal: Standard normal numbers (B, T, ...), for T steps.
        uniform: Numbers in (0, 1), (B, T).

    Returns:
        The last states (B, ...), and the accepted steps (B, T) bool.

    Example:
        >>> x, accepted = torch.zeros(4000, 1), []
        >>> normal, uniform = torch.randn(4000, 40, 1), torch.rand(4000, 40)
        >>> x, accepted = mala(lambda x: -x.square().sum(1) / 2, x, 1.0, normal, uniform)
        >>> bool((x.std() - 1).abs() < 0.05), bool(accepted.float().mean() > 0.8)
        (True, True)
    """

    def with_gradient(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = log_p(x)
            return value.detach(), torch.autograd.grad(value.sum(), x)[0]

    def error(end: Tensor, start: Tensor, gradient: Tensor) -> Tensor:
        """Return the squared noise (B,) of a step from ``start`` to ``end``, in standard deviations."""
        noise = (end - start - step_size**2 / 2 * gradient) / step_size
        return noise.square().flatten(1).sum(1)

    value, gradient = with_gradient(x)
    moves = []
    for step in range(uniform.shape[1]):
        candidate = x + step_size**2 / 2 * gradient + step_size * normal[:, step]
        new_value, new_gradient = with_gradient(candidate)
        forward, back = error(candidate, x, gradient), error(x, candidate, new_gradient)
        accept = uniform[:, step].log() < new_value - value + (forward - back) / 2
        where = accept.view(-1, *[1] * (x.ndim - 1))
        x, gradient = torch.where(where, candidate, x), torch.where(where, new_gradient, gradient)
        value = torch.where(accept, new_value, value)
        moves.append(accept)
    return x, torch.stack(moves, 1)
