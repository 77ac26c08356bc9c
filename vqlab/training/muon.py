"""Muon: momentum with orthogonalized updates for the matrices of a network."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95  # Nesterov's
QUINTIC = (3.4445, -4.775, 2.0315)  # Jordan et al. 2024: the steepest at zero that stays near 1


class Muon(torch.optim.AdamW):
    """Muon for matrices and convolutions, AdamW for all other parameters.

    The momentum of a matrix is replaced by the nearest orthogonal matrix (Jordan et al. 2024), approximately, and
    multiplied by 0.2 sqrt(max(rows, columns)), the size of an update of Adam, so that both have one learning rate and
    one weight decay (Liu et al. 2025, arXiv:2502.16982, equation 4). A convolution is a matrix with a row for each
    channel of its output.

    Args:
        params: Parameters or groups. A group with ``orthogonalize=False``, such as a codebook, is left to AdamW.
        lr: Learning rate of both.
        betas: Decay rates of AdamW.
        weight_decay: Decoupled weight decay of both.

    Example:
        >>> layer = torch.nn.Linear(8, 4)
        >>> optimizer = Muon(layer.parameters(), lr=0.1)
        >>> layer(torch.randn(16, 8)).square().mean().backward()
        >>> before = layer.weight.detach().clone()
        >>> optimizer.step()
        >>> singular = torch.linalg.svdvals(before - layer.weight) / (0.1 * 0.2 * 8**0.5)
        >>> bool(((singular > 0.6) & (singular < 1.3)).all())
        True
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay)
        for group in self.param_groups:
            group.setdefault("orthogonalize", True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update all parameters that have a gradient; return what ``closure`` returns."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        gradients: dict[Tensor, Tensor] = {}
        for group in self.param_groups:
            candidates = group["params"] if group["orthogonalize"] else []
            matrices = {p: p.grad for p in candidates if p.ndim > 1 and p.grad is not None}
            self._step_matrices(matrices, group)
            gradients |= matrices
        for p in gradients:
            p.grad = None  # AdamW steps what is left
        super().step()
        for p, gradient in gradients.items():
            p.grad = gradient
        return loss

    def _step_matrices(self, gradients: dict[Tensor, Tensor], group: dict[str, Any]) -> None:
        updates = defaultdict(list)
        for p, gradient in gradients.items():
            state = self.state[p]
            if not state:
                state |= {"step": torch.zeros(()), "exp_avg": torch.zeros_like(p)}  # names as in AdamW
            state["step"] += 1
            average = state["exp_avg"].lerp_(gradient, 1 - MOMENTUM)
            updates[p.shape].append((p, gradient.lerp(average, MOMENTUM).flatten(1)))
        for shape, pairs in updates.items():
            size = 0.2 * max(pairs[0][1].shape) ** 0.5
            for (p, _), update in zip(pairs, orthogonalize(torch.stack([u for _, u in pairs])), strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.view(shape), alpha=-group["lr"] * size)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Return matrices (B, rows, columns) with the singular vectors of ``matrices`` and singular values near 1.

    Five Newton-Schulz steps, in bfloat16 on a GPU. Singular values below about 1e-3 of the norm stay small.
    """
    a, b, c = QUINTIC
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = (matrices if wide else matrices.mT).to(torch.bfloat16 if matrices.is_cuda else matrices.dtype)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x if wide else x.mT).to(matrices.dtype)
