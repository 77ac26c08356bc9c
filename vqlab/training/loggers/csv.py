"""metrics.csv: one line per log call, written at once and continued by a resumed run."""

import csv
import io
import time
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from vqlab.atomic_io import append, write_atomic


class CSVLog(Logger):
    """Append metrics to ``folder/filename``; the columns are ``step``, ``time`` and all metrics so far.

    A killed run loses no line. Unlike Lightning's ``CSVLogger``, this logger keeps an existing file.
    """

    version = ""  # the folder is the version

    def __init__(self, folder: str | Path, filename: str = "metrics.csv") -> None:
        super().__init__()
        self.path = Path(folder) / filename
        self.columns: list[str] | None = None

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return self.path.parent.name

    @property
    def save_dir(self) -> str:
        """Path of the run folder."""
        return str(self.path.parent)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml contains them."""

    @rank_zero_only
    def resume_from(self, step: int, last: dict[str, float] | None = None) -> None:
        """Keep the lines of the first ``step`` steps; add ``last``, which a killed run may not have written."""
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
        assert self.columns is not None
        if not row.keys() <= set(self.columns):
            self._rewrite(read_rows(self.path), list(dict.fromkeys([*self.columns, *row])))
        append(self.path, _lines([row], self.columns))

    def _rewrite(self, rows: list[dict[str, Any]], columns: list[str]) -> None:
        self.columns = columns
        with write_atomic(self.path) as file:
            file.write(_lines([dict(zip(columns, columns, strict=True)), *rows], columns).encode())


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the complete lines of a metrics file, without a truncated last line."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8-sig")  # Excel adds a byte order mark
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    return [row for row in rows if None not in row.values() and row.get("step", "").isdigit()]


def _lines(rows: list[dict[str, Any]], columns: list[str]) -> str:
    buffer = io.StringIO()
    csv.DictWriter(buffer, columns, restval="", lineterminator="\n").writerows(rows)
    return buffer.getvalue()
