"""Read run folders for a report; missing and damaged files are recorded as problems."""

import csv
import io
import itertools
import json
import math
import os
import re
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path

from vqlab.errors import UserError
from vqlab.experiments.experiment import SEEDED
from vqlab.experiments.run_state import (
    CONFIG,
    FAILED,
    FINISHED,
    LOG,
    NOTE,
    ROW,
    State,
    is_running,
    settings_of,
    state_of,
)
from vqlab.experiments.settings import Settings
from vqlab.experiments.text import plural

Series = list[tuple[int, float]]  # (completed steps, value)
PictureFiles = list[tuple[int, Path]]  # (completed steps, file)

TEST, HEALTH = "test.csv", "health.jsonl"
RUN_FILES = {CONFIG, LOG, FAILED, FINISHED, HEALTH, "checkpoints"}  # a folder with any of these is a run
PICTURE = re.compile(r"(?P<kind>.+)_(?P<step>[0-9]{1,15})\.png")
HIGHER_IS_BETTER = re.compile(
    r"(psnr|ssim|snr|correlation|acc|accuracy|perplexity|codebook_usage|diversity|classes_drawn|npmi|npmi_doc|cv|uci"
    r"|umass|cp|nmi|purity|iou|gain|retrieval)$|^(precision|recall|density|coverage)_"
)
LOWER_IS_BETTER = re.compile(r"loss|nll|mse|l1$|lpips|fid|^[fk]d_|bits|error|spectral|redundancy")


@dataclass(frozen=True)
class Figure:
    """Last and best value of a metric, with their steps; no best value where the better direction is not known."""

    last: float
    last_step: int
    best: float | None = None
    best_step: int | None = None


@dataclass
class MetricsLog:
    """Content of metrics.csv, which counts steps from 0: its step 19 is completed step 20."""

    series: dict[str, Series] = field(default_factory=dict)  # by metric
    times: Series = field(default_factory=list)  # seconds since 1970 of each line
    damaged: int = 0  # lines that could not be read

    @property
    def steps(self) -> int:
        """Completed steps at the last line."""
        return max((step for step, _ in self.times), default=0)


@dataclass(frozen=True)
class SweepRow:
    """What a sweep notes in the folder of a row."""

    experiment: str = ""  # name of the file
    place: int = 0  # in the file
    command: str = ""
    scale: float = 1.0  # of the numbers of steps
    budget: str = ""  # time for which the scale was chosen

    @property
    def scaled(self) -> str:
        """The scale and its reason as text, empty if there is none."""
        return "" if self.scale == 1 else f"{self.scale:g}" + (f" for {self.budget}" if self.budget else "")


@dataclass
class Run:
    """Content of a run folder."""

    folder: Path
    name: str = ""  # the shortest name that distinguishes it from the other runs of its model
    settings: Settings = field(default_factory=dict)  # its config by dotted name
    log: MetricsLog = field(default_factory=MetricsLog)
    tested: dict[str, float] = field(default_factory=dict)  # the last metrics of test.csv
    status: str = "interrupted"  # or finished, running, failed
    error: str = ""  # why it failed
    events: dict[str, tuple[int, str, str]] = field(default_factory=dict)  # by name: step, evidence, hint of the first
    pictures: dict[str, PictureFiles] = field(default_factory=dict)  # by kind, in the order of the steps
    film: Path | None = None  # a GIF of the images over the training
    problems: list[str] = field(default_factory=list)  # missing and damaged files
    note: str = ""
    sweep: SweepRow = field(default_factory=SweepRow)

    @property
    def model(self) -> str:
        """The model's class; where that is not known, the name of the folder above."""
        return str(self.settings.get("model") or self.folder.absolute().parent.name)

    @property
    def monitor(self) -> str:
        """The metric that decides which checkpoint is best."""
        return str(self.settings.get("checkpoint.monitor", "val/loss"))

    @property
    def seeds(self) -> tuple[str, ...]:
        """The seeds of weights and noise, and of the data's split and order."""
        return tuple(str(self.settings.get(name)) for name in SEEDED)

    def mode(self, metric: str) -> str | None:
        """Return whether ``min`` or ``max`` of a metric is best, None if that is not known."""
        return self.settings.get("checkpoint.mode", "min") if metric == self.monitor else direction(metric)

    def figure(self, metric: str) -> Figure | None:
        """Return last and best value of a metric; the best is the first of equal ones, and finite."""
        if not (series := self.log.series.get(metric)):
            return None
        mode, (last_step, last) = self.mode(metric), series[-1]
        finite = [point for point in series if math.isfinite(point[1])]
        if mode is None or not finite:
            return Figure(last, last_step)
        best_step, best = (min if mode == "min" else max)(finite, key=itemgetter(1))
        return Figure(last, last_step, best, best_step)

    def value(self, metric: str) -> float | None:
        """Return the value by which runs are compared: of the test, best of the monitored metric, last of others."""
        if metric in self.tested:
            return self.tested[metric]
        figure = self.figure(metric)
        return None if figure is None else figure.best if metric == self.monitor else figure.last

    @property
    def seconds(self) -> float | None:
        """Time from the first to the last line of the log, without interruptions of the run."""
        times = sorted(when for _, when in self.log.times)
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        longest = max(300, 30 * statistics.median(gaps)) if gaps else 0  # a longer gap is an interruption
        return sum(gap for gap in gaps if gap <= longest) if gaps else None

    @property
    def started(self) -> str:
        """Date and time of the first line of the log."""
        first = min((when for _, when in self.log.times), default=None)
        return "-" if first is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(first))

    @property
    def samples_per_second(self) -> float | None:
        """Median over the log; it counts training batches only."""
        series = self.log.series.get("train/samples_per_second")
        return statistics.median(value for _, value in series) if series else None

    @property
    def peak_lr(self) -> float | None:
        """The largest learning rate of the first optimizer; with ``base_lr``, the equivalent absolute rate."""
        first = next((series for name, series in self.log.series.items() if name.startswith("lr/")), [])
        return max((value for _, value in first), default=None)


def direction(metric: str) -> str | None:
    """Return which of ``min`` and ``max`` is better for a metric, None if that is not known."""
    name = metric.rpartition("/")[2]
    if name.endswith("_identity"):  # of the source images: training does not change it
        return None
    if HIGHER_IS_BETTER.search(name):
        return "max"
    return "min" if LOWER_IS_BETTER.search(name) else None


def find_runs(places: Sequence[Path]) -> list[Run]:
    """Return the runs in and below folders, sorted, those of a sweep in the order of its file.

    Raises:
        UserError: If a folder is missing, or holds no run.
    """
    folders: set[Path] = set()
    for place in places:
        if not place.is_dir():
            raise UserError(f"{place} is not a folder: give run folders, or a folder of runs such as runs")
        for folder, below, files in os.walk(place):
            if RUN_FILES & {*below, *files}:
                folders.add(Path(folder))
                below.clear()  # no run lies inside another
            below[:] = [name for name in below if not name.startswith(".")]
    if not folders:
        raise UserError(f"no run in {', '.join(map(str, places))}: a run has a config.yaml or a metrics.csv")
    runs = [read_run(folder) for folder in sorted(folders, key=lambda folder: natural(str(folder)))]
    return sorted(runs, key=lambda run: (run.sweep.experiment, run.sweep.place))


def read_run(folder: Path) -> Run:
    """Return the content of a run folder; files that a short or interrupted run has not written may be missing."""
    run = Run(folder, settings=settings_of(folder))
    if is_running(folder):
        run.status = "running"
    elif state_of(folder) is State.FINISHED:
        run.status = "finished"
    elif (folder / FAILED).exists():
        with suppress(ValueError, TypeError, KeyError):  # damaged
            run.error = str(json.loads((folder / FAILED).read_bytes())["error"])
        run.status = "failed"
    run.note = read_note(folder)
    with suppress(OSError, ValueError, TypeError):  # no row of a sweep
        run.sweep = SweepRow(**json.loads((folder / ROW).read_bytes()))
    if not run.settings:
        run.problems.append(f"{CONFIG} is damaged" if (folder / CONFIG).exists() else f"no {CONFIG}")
    run.log, test = read_log(folder / LOG), read_log(folder / TEST)
    run.tested = {name: series[-1][1] for name, series in test.series.items() if name.startswith("test/")}
    events = [read_event(line) for line in read_text(folder / HEALTH).splitlines() if line.strip()]
    for name, event in filter(None, events):
        run.events.setdefault(name, event)
    for name, lines in ((LOG, run.log.damaged), (TEST, test.damaged), (HEALTH, events.count(None))):
        if lines:
            run.problems.append(f"{plural(lines, 'line')} of {name} cannot be read")
    run.pictures = find_pictures(folder / "samples")
    run.film = next(filter(partial(inside, folder), folder.glob("samples/steps.gif")), None)
    return run


def read_text(path: Path) -> str:
    """Return the text of a file, empty if it does not exist."""
    return path.read_text("utf-8-sig", errors="replace") if path.exists() else ""


def read_note(folder: Path) -> str:
    """Return the note of the run in ``folder`` as one line, empty if it has none."""
    return " ".join(read_text(folder / NOTE).split())


def read_log(path: Path) -> MetricsLog:
    """Read ``metrics.csv``; incomplete lines, and lines without numbers, are counted and left out."""
    whole, _, truncated = read_text(path).rpartition("\n")
    log = MetricsLog(damaged=int(bool(truncated)))  # a line without an end: the run was killed
    for row in csv.DictReader(io.StringIO(whole)):
        try:
            step = int(row.pop("step")) + 1
            values = {name: float(cell) for name, cell in row.items() if cell != ""}
        except (KeyError, TypeError, ValueError):
            log.damaged += 1
            continue
        if "time" in values:
            log.times.append((step, values.pop("time")))
        values.pop("epoch", None)
        for name, value in values.items():
            log.series.setdefault(name, []).append((step, value))
    return log


def read_event(line: str) -> tuple[str, tuple[int, str, str]] | None:
    """Return name, step, evidence and hint of a line of health.jsonl, None if it is damaged."""
    try:
        found = json.loads(line)
        hint = found["hint"] if "hint" in found else found["mend"]
        return str(found["event"]), (int(found["step"]), str(found["evidence"]), str(hint))
    except (ValueError, KeyError, TypeError):
        return None


def find_pictures(folder: Path) -> dict[str, PictureFiles]:
    """Return the pictures of each kind by steps: ``step_000400.png`` has the kind ``step`` and shows step 400.

    A link to a file outside of the run folder is left out, because a report embeds the pictures.
    """
    found: dict[str, PictureFiles] = {}
    for path in filter(partial(inside, folder.parent), folder.glob("*.png")):
        if name := PICTURE.fullmatch(path.name):
            found.setdefault(name["kind"], []).append((int(name["step"]), path))
    return {kind: sorted(files) for kind, files in found.items()}


def inside(folder: Path, path: Path) -> bool:
    """Return whether a file, or the file that a link names, lies in ``folder``."""
    return path.resolve().is_relative_to(folder.resolve())


def natural(text: str) -> list[tuple[str, float]]:
    """Return a key that sorts 64 before 512, and 3e-4 before 0.001."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", text)
    return [(word, float(number or 0)) for word, number in itertools.zip_longest(parts[::2], parts[1::2])]


def first_known(runs: Sequence[Run]) -> Run:
    """Return the first run whose config is known; its monitored metric is used for all of them."""
    return next((run for run in runs if run.settings), runs[0])
