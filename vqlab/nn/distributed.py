"""Collectives that do nothing in a single process, as before Lightning starts the process group."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of processes that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process among them; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def all_sum(x: Tensor) -> Tensor:
    """Return the sum of ``x`` over all ranks, bit-identical on every rank; ``x`` itself in a single process."""
    if world_size() > 1:
        x = x.clone()
        dist.all_reduce(x)
    return x


def all_gather_rows(x: Tensor) -> Tensor:
    """Concatenate ``x`` (N, ...) of all ranks to (world * N, ...); N must be the same on every rank."""
    if world_size() == 1:
        return x
    gathered = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(gathered, x.contiguous())
    return torch.cat(gathered)


def gather_interleaved(rows: Tensor, size: int) -> Tensor:
    """Return ``size`` rows on the CPU, of which rank r of R holds the rows r, r + R, ...; all ranks must call it."""
    world = world_size()
    most = -(-size // world)  # largest number of rows of a rank, because collectives need equal shapes
    padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
    # As bytes, because gloo does not support int16.
    ranks = all_gather_rows(padded.contiguous().view(torch.uint8)).view(rows.dtype).unflatten(0, (world, most))
    return ranks.transpose(0, 1).flatten(0, 1)[:size].cpu()


def mean_over_ranks(x: Tensor) -> Tensor:
    """Return the mean of ``x`` over all ranks; its gradient is that of the rank's own ``x``, which DDP averages."""
    return x + (all_sum(x.detach()) / world_size() - x.detach()) if world_size() > 1 else x


def means_over_ranks(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the means of ``tensors`` over all ranks, in one collective."""
    if world_size() == 1:
        return list(tensors)
    flat = all_sum(torch.cat([tensor.flatten() for tensor in tensors])) / world_size()
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
