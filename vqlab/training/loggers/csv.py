"""metrics.csv: one line per log call, appended at once, continued by a resumed run."""

import csv
import io
import time
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from vqlab.training.checkpoint_io import append, write_atomic


class CSVLog(Logger):
    """Log metrics to ``folder/filename``; columns are ``step``, ``time`` and every metric met so far.

    Each line is written in one piece when it is logged, so a killed run loses none. Lightning's own CSV logger deletes
    the file that it finds; this one keeps it, less the lines behind the step from which a run resumes.

    Args:
        folder: The run's folder.
        filename: Name of the file.
    """

    def __init__(self, folder: str | Path, filename: str = "metrics.csv") -> None:
        super().__init__()
        self.path = Path(folder) / filename
        self.columns: list[str] | None = None

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return self.path.parent.name

    @property
    def version(self) -> str:
        """Empty: the folder is the version."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run's folder."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml holds them."""

    @rank_zero_only
    def resume_from(self, step: int, last: dict[str, float] | None = None) -> None:
        """Keep the lines of the first ``step`` steps (indices from 0); the resumed run writes the others again.

        ``last`` is the line of the last of these steps, which a run that was killed at once may not have written.
        """
        rows: list[dict[str, Any]] = [row for row in read_rows(self.path) if int(row["step"]) < step]
        if last and not any(int(row["step"]) == last["step"] and all(map(row.get, last)) for row in rows):
            rows.append(last)
        self._rewrite(rows, list(dict.fromkeys(name for row in rows for name in row)) or ["step", "time"])

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one line; ``step`` counts from 0, as in all of Lightning's loggers."""
        row = {"step": 0 if step is None else step, "time": round(time.time(), 1), **metrics}
        if self.columns is None or not self.path.exists():
            rows = read_rows(self.path)
            self._rewrite(rows, list(rows[0]) if rows else list(row))
        if new := [name for name in row if name not in (self.columns or [])]:
            self._rewrite(read_rows(self.path), [*(self.columns or []), *new])
        append(self.path, _lines([row], self.columns or []))

    def _rewrite(self, rows: list[dict[str, Any]], columns: list[str]) -> None:
        self.columns = columns
        with write_atomic(self.path) as file:
            file.write((_lines([dict(zip(columns, columns, strict=True))], columns) + _lines(rows, columns)).encode())


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the whole lines of a metrics file; a line that a kill cut short is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8-sig")  # Excel puts a mark in front
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    return [row for row in rows if None not in row.values() and row.get("step", "").isdigit()]


def _lines(rows: list[dict[str, Any]], columns: list[str]) -> str:
    buffer = io.StringIO()
    csv.DictWriter(buffer, columns, restval="", lineterminator="\n").writerows(rows)
    return buffer.getvalue()
