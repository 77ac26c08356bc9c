"""Softmaxes over a codebook in blocks of rows: no N x K array, not even in the backward pass."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 2**22  # probabilities held at once: 16 MiB in float32, a few times that in the backward pass


def in_chunks(
    function: Callable[..., tuple[Tensor, ...]], width: int, rows: Tensor, *others: Tensor | None
) -> list[tuple[Tensor, ...]]:
    """Apply ``function`` to blocks of ``rows`` (N, D) and of ``others`` (N, ...); return the results by block.

    A block times ``width`` is at most ``CHUNK_ELEMENTS``. Intermediate results are not kept but computed again in the
    backward pass, with the same random numbers.
    """
    if torch.jit.is_tracing() or torch.compiler.is_exporting():  # the graph must serve any number of rows
        return [function(rows, *others)]
    size = max(1, CHUNK_ELEMENTS // width)
    blocks = [[None if x is None else x[n : n + size] for x in (rows, *others)] for n in range(0, len(rows), size)]
    if not torch.is_grad_enabled():
        return [function(*block) for block in blocks]
    return [checkpoint(function, *block, use_reentrant=False) for block in blocks]


def entropy(probs: Tensor) -> Tensor:
    """Return -sum p ln p over the last dimension, in nats; the gradient at p = 0 is finite."""
    return -(probs * probs.clamp_min(1e-12).log()).sum(-1)
