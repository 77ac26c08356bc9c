"""Reader of metrics.csv: one series per metric, by the number of steps done."""

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path

from vqlab.experiments.run_files import LARGEST_LOG, read_text

Series = list[tuple[int, float]]
MAX_STEPS = 2**53  # integers up to here are exact as floats
MAX_METRICS = 1000
MAX_VALUE = 1e100  # sums and squares of some such values are finite


@dataclass
class MetricsLog:
    """Content of a metrics file.

    Attributes:
        series: Metric -> (steps done, value); the file counts steps from 0, so its step 19 is 20 steps done.
        times: (steps done, seconds since 1970) of each line.
        damaged: Number of lines that could not be read.
    """

    series: dict[str, Series] = field(default_factory=dict)
    times: Series = field(default_factory=list)
    damaged: int = 0

    @property
    def steps(self) -> int:
        """Steps done at the last line."""
        return max((step for step, _ in self.times), default=0)


def read_log(path: Path) -> MetricsLog:
    """Read ``metrics.csv``; lines that are incomplete or hold impossible numbers are counted and left out.

    NaN and infinity are possible; a step outside [0, 2^53), a finite value beyond 1e100 and a header of more than 1,000
    metrics are not.

    Raises:
        OSError: If the file cannot be read; see :func:`~vqlab.experiments.run_files.read_file`.
    """
    log = MetricsLog()
    header, *lines = read_text(path.parent, path.name, LARGEST_LOG).replace("\r\n", "\n").split("\n")
    truncated = lines.pop() if lines else header  # text after the last line end: empty, unless the run was killed
    log.damaged = int(bool(truncated))
    names = cells_of(header)
    if "step" not in names or len(names) > MAX_METRICS:
        log.damaged += len(lines)
        return log
    place = names.index("step")
    columns = [log.times if name == "time" else log.series.setdefault(name, []) for name in names]
    for line in lines:
        cells = cells_of(line)
        try:
            step = int(cells[place]) + 1
            values = [(column, float(cell)) for column, cell in zip(columns, cells, strict=True) if cell]
        except (ValueError, IndexError):
            log.damaged += 1
            continue
        if not 0 < step <= MAX_STEPS or not all(is_possible(value, column is log.times) for column, value in values):
            log.damaged += 1
            continue
        for column, value in values:
            column.append((step, value))
    log.series = {name: series for name, series in log.series.items() if series and name not in ("step", "epoch")}
    return log


def cells_of(line: str) -> list[str]:
    """Return the cells of a line of CSV; none if it is damaged.

    Example:
        >>> cells_of('step,"rate, of 1"'), cells_of("")
        (['step', 'rate, of 1'], [])
    """
    try:
        return next(csv.reader([line]))
    except csv.Error:
        return []


def is_possible(value: float, is_time: bool) -> bool:
    """Whether a run can have logged a value."""
    return abs(value) <= MAX_VALUE or not (is_time or math.isfinite(value))


def best_of(series: Series, mode: str) -> tuple[int, float] | None:
    """Return (steps done, value) where a metric was smallest (``min``) or largest (``max``) first.

    Example:
        >>> best_of([(10, 3.0), (20, 1.0), (30, float("nan")), (40, 2.0)], "min")
        (20, 1.0)
    """
    finite = [point for point in series if math.isfinite(point[1])]
    choose = min if mode == "min" else max
    return choose(finite, key=lambda point: point[1]) if finite else None
