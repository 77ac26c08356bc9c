"""One function on the two ranks of a process group."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def on_two_ranks(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """Return the results of ``work(rank)`` (data and tensors) on two gloo processes, which save them in ``folder``."""

    def run(rank: int) -> None:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
        torch.save(work(rank), folder / f"{rank}.pt")
        dist.destroy_process_group()

    ranks = [multiprocessing.get_context("fork").Process(target=run, args=(rank,)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(240)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
