"""How the rows stand, on the screen while they run and as a table at the end."""

import shutil
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from vqlab.experiments.experiment import Experiment, Row
from vqlab.experiments.metrics_log import best_of, cells_of, log_or_empty
from vqlab.experiments.run_files import open_file
from vqlab.experiments.run_state import LOG
from vqlab.experiments.settings import mode_of, monitor_of

BLINK = 1.0  # seconds between two looks at the rows on a terminal ...
REMARK = 300.0  # ... and between two lines on a row in a file
TAIL = 16_384  # bytes at the end of a log that hold its last lines


class Board(threading.Thread):
    """One line on each row that runs, kept up to date at the foot of a terminal, or now and then in a file."""

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(daemon=True)
        self.experiment = experiment
        self.running: dict[str, tuple[Row, float]] = {}
        self.drawn = 0  # lines at the foot that the next drawing replaces
        self.live = sys.stdout.isatty()
        self.guard = threading.RLock()
        self.ended = threading.Event()

    def say(self, line: str) -> None:
        """Print a line that stays."""
        with self.guard:
            self._wipe()
            print(line, flush=True)
            self._draw()

    def begin(self, row: Row) -> None:
        """Show ``row`` from now on."""
        with self.guard:
            self.running[row.name] = (row, time.monotonic())

    def end(self, row: Row, outcome: str) -> None:
        """Show ``row`` no longer, and print how it ended."""
        with self.guard:
            _, started = self.running.pop(row.name)
        self.say(f"{row.name}: {outcome} ({clock(time.monotonic() - started)})")

    def run(self) -> None:
        """Draw again and again."""
        while not self.ended.wait(BLINK if self.live else REMARK):
            with self.guard:
                if self.live:
                    self._wipe()
                    self._draw()
                else:
                    for line in self._lines():
                        print(line, flush=True)

    def close(self) -> None:
        """Leave no line behind that would go stale."""
        self.ended.set()
        with self.guard:
            self._wipe()

    def _lines(self) -> list[str]:
        return [progress(self.experiment.folder(row), row, time.monotonic() - t) for row, t in self.running.values()]

    def _draw(self) -> None:
        if self.live:
            lines = self._lines()
            self.drawn = len(lines)
            width = shutil.get_terminal_size().columns - 1  # a line that wraps would be two
            print("".join(f"{line[:width]}\n" for line in lines), end="", flush=True)

    def _wipe(self) -> None:
        if self.drawn:
            print(f"\x1b[{self.drawn}F\x1b[J", end="", flush=True)  # to the first of our lines, and clear from there
            self.drawn = 0


def progress(folder: Path, row: Row, seconds: float) -> str:
    """Return one line on a row that runs: steps done and to do, the last loss, how long it has run here."""
    last = last_figures(folder / LOG)
    done, of = last.get("step", -1.0) + 1, row.settings.get("trainer.max_steps")
    steps = f"step {done:,.0f}" + (f" of {of:,} ({done / of:.0%})" if isinstance(of, int) and of > 0 else "")
    figures = "".join(f"  {name} {last[name]:.4g}" for name in ("train/loss", "val/loss") if name in last)
    return f"  {row.name}: {steps}{figures}  {clock(seconds)}"


def last_figures(path: Path) -> dict[str, float]:
    """Return the last value of each metric, from the last lines of a log that is being written."""
    found: dict[str, float] = {}
    with suppress(OSError, ValueError), open_file(path.parent, path.name) as file:
        names = cells_of(file.readline(TAIL).decode("utf-8-sig"))
        start = file.tell()
        file.seek(max(start, file.seek(0, 2) - TAIL))
        lines = file.read().decode(errors="replace").split("\n")
        for line in lines[file.tell() - TAIL > start : -1]:  # the first may be cut off, the last is not yet whole
            cells = cells_of(line)
            if len(cells) == len(names):
                found |= {name: float(cell) for name, cell in zip(names, cells, strict=True) if cell}
    return found


def table(experiment: Experiment, rows: Iterable[Row], statuses: dict[str, str]) -> str:
    """Return row, status, steps, and best and last of the metric that decides which checkpoint is best."""
    lines = [("row", "status", "steps", "best", "at step", "last", "of")]
    for row in rows:
        log = log_or_empty(experiment.folder(row) / LOG)
        monitor = monitor_of(row.settings)
        series = log.series.get(monitor, [])
        best = best_of(series, mode_of(row.settings))
        figures = (f"{best[1]:.5g}", f"{best[0]:,}", f"{series[-1][1]:.5g}", monitor) if best else ("-",) * 4
        lines.append((row.name, statuses[row.name], f"{log.steps:,}", *figures))
    return align(lines)


def align(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as columns, the first two to the left, numbers to the right.

    Example:
        >>> print(align([("row", "status", "steps"), ("first", "failed", "20")]))
        row    status  steps
        first  failed     20
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < 2 or place == len(widths) - 1 > 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in lines
    )


def clock(seconds: float) -> str:
    """Return a duration as people read it.

    Example:
        >>> clock(75), clock(3 * 3600 + 62)
        ('1:15', '3:01:02')
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
