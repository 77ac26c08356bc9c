"""What a comparison with a peer comes to, how contestants take turns, and the table that says so."""

import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Ratio:
    """How many times as much of something a peer takes as vqlab does.

    Args:
        what: The part of vqlab, and at which size.
        peer: What it is compared with.
        measure: CPU time, or the highest memory beyond that before.
        value: The peer's over vqlab's: above 1 vqlab is the better of the two.
        reason: Why it is below 1, where it may be.
    """

    what: str
    peer: str
    measure: Literal["time", "memory"]
    value: float
    reason: str = ""


def medians(contestants: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Return the median of what each contestant measures; they take turns, so a busy machine slows all alike."""
    turns = [{name: measure() for name, measure in contestants.items()} for _ in range(repeats)]
    return {name: statistics.median(turn[name] for turn in turns) for name in contestants}


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1] for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    )
    return names[0].strip() if names else platform.machine()


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
