"""Ratios of a comparison, interleaved measurements, and a Markdown table."""

import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Ratio:
    """Time or memory of another implementation, relative to vqlab.

    Args:
        what: The part of vqlab, and the size.
        peer: The other implementation.
        measure: CPU time, or peak memory above the state before.
        value: The peer over vqlab: above 1 vqlab is better.
        reason: Why the value may be below 1.
    """

    what: str
    peer: str
    measure: Literal["time", "memory"]
    value: float
    reason: str = ""


def medians(contestants: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Return the median of each contestant; they take turns, so a busy machine slows all equally."""
    turns = [{name: measure() for name, measure in contestants.items()} for _ in range(repeats)]
    return {name: statistics.median(turn[name] for turn in turns) for name in contestants}


def processor() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1] for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    )
    return names[0].strip() if names else platform.machine()


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
