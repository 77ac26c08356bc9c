"""Time and memory of a function, and of several functions that take turns."""

import ctypes
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from ratios import medians

CPU = torch.device("cpu")


def race(runs: dict[str, Callable[[], object]], repeats: int, device: torch.device = CPU) -> dict[str, float]:
    """Return the median seconds of each, after a warm-up run."""
    for run in runs.values():
        run()
    return medians({name: partial(stopwatch, run, device) for name, run in runs.items()}, repeats)


def stopwatch(run: Callable[[], object], device: torch.device) -> float:
    """Return the CPU or GPU seconds of ``run``."""
    if device.type != "cuda":
        start = time.process_time()
        run()
        return time.process_time() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def peak_memory(run: Callable[[], object], device: torch.device) -> float:
    """Return the peak memory of ``run`` in bytes above the state before; NaN if the system does not report it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if platform.system() != "Linux":
        return float("nan")
    before = start_peak()
    run()
    return resident("VmHWM") - before


def start_peak() -> int:
    """Reset the peak memory of the process, and return it in bytes (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)  # kept pages would hide the memory of a step
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmHWM")


def resident(name: str) -> int:
    """Return the entry ``name`` of the process status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)
