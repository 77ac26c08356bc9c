"""metrics.csv, read back: one series per metric, by the number of steps done."""

import math
from dataclasses import dataclass, field
from pathlib import Path

Series = list[tuple[int, float]]


@dataclass
class MetricsLog:
    """What a metrics file holds.

    Attributes:
        series: Metric -> (steps done, value); the file counts steps from 0, so its step 19 is 20 steps done.
        times: (steps done, seconds since 1970) of each line.
        damaged: Lines that could not be read.
    """

    series: dict[str, Series] = field(default_factory=dict)
    times: Series = field(default_factory=list)
    damaged: int = 0

    @property
    def steps(self) -> int:
        """Steps done at the last line."""
        return max((step for step, _ in self.times), default=0)


def read_log(path: Path) -> MetricsLog:
    """Read ``metrics.csv``; lines that are torn or no numbers are counted and left out.

    Raises:
        OSError: If the file cannot be read.
    """
    log = MetricsLog()
    header, *lines = path.read_text(errors="replace").split("\n")
    names = header.split(",")
    torn = lines.pop() if lines else header  # what follows the last line's end: nothing, unless a kill cut it short
    log.damaged = int(bool(torn))
    if "step" not in names:
        log.damaged += len(lines)
        return log
    place = names.index("step")
    columns = [log.times if name == "time" else log.series.setdefault(name, []) for name in names]
    for line in lines:
        cells = line.split(",")
        try:
            step = int(cells[place]) + 1
            values = [(column, float(cell)) for column, cell in zip(columns, cells, strict=True) if cell]
        except (ValueError, IndexError):
            log.damaged += 1
            continue
        for column, value in values:
            column.append((step, value))
    log.series = {name: series for name, series in log.series.items() if series and name not in ("step", "epoch")}
    return log


def best_of(series: Series, mode: str) -> tuple[int, float] | None:
    """Return (steps done, value) where a metric was smallest (``min``) or largest (``max``), the first if it was twice.

    Example:
        >>> best_of([(10, 3.0), (20, 1.0), (30, float("nan")), (40, 2.0)], "min")
        (20, 1.0)
    """
    finite = [point for point in series if math.isfinite(point[1])]
    choose = min if mode == "min" else max
    return choose(finite, key=lambda point: point[1]) if finite else None
