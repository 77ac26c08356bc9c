"""The same work on two processes of one group."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def on_two_ranks(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """Return what ``work(rank)`` gave on each of two gloo processes: plain data and tensors, by way of ``folder``."""
    fork = multiprocessing.get_context("fork")  # everything is imported already
    ranks = [fork.Process(target=_run, args=(work, rank, folder)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(240)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _run(work: Callable[[int], Any], rank: int, folder: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    torch.save(work(rank), folder / f"{rank}.pt")
    dist.destroy_process_group()
