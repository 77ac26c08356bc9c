"""Tables of runs: settings, metrics, cost, repeats, effects and health events; and numbers as text."""

import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from vqlab.experiments.experiment import short_names
from vqlab.experiments.factors import differing, effects, value_of
from vqlab.experiments.runs import Run, direction, first_known

# Metrics of a table besides the monitored one, where they were logged.
TELLING: tuple[str, ...] = ("psnr", "snr", "acc", "nll", "bits_per_token", "npmi", "perplexity", "codebook_usage")
TELLING += ("ssim", "lpips", "correlation", "accept_rate", "diversity", "classes_drawn", "topic_diversity")
TELLING += ("d_acc", "rec_loss")
SHOWN = 6  # metrics of a table
FEW = 4  # settings that may stand in front of the metrics


class Cell(NamedTuple):
    """A value as it is shown, its exact number, and whether it is the best of its column."""

    shown: str
    exact: float | None = None
    best: bool = False


@dataclass
class Table:
    """Columns with short and full names, and a line per run, setting or event."""

    names: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    columns: list[list[Cell]] = field(default_factory=list)

    def add(self, name: str, cells: Iterable[Cell | str], hint: str = "", mode: str | None = None) -> None:
        """Add a column; ``mode`` is ``min`` or ``max``, whichever is best."""
        column = [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells]
        known = [cell.exact for cell in column if cell.exact is not None and cell.exact == cell.exact]
        if mode and len(set(known)) > 1:
            best = (min if mode == "min" else max)(known)
            column = [cell._replace(best=cell.exact == best) for cell in column]
        self.names.append(name)
        self.hints.append(hint or name)
        self.columns.append(column)

    @classmethod
    def of(cls, names: Sequence[str], rows: Iterable[Sequence[Cell | str]]) -> "Table":
        """Return a table of rows."""
        table = cls()
        for name, column in zip(names, zip(*rows, strict=True), strict=True):
            table.add(name, column)
        return table

    @property
    def lines(self) -> list[list[Cell]]:
        """The table, line by line."""
        return [list(line) for line in zip(*self.columns, strict=True)]


def telling_metrics(runs: Sequence[Run]) -> list[str]:
    """Return the monitored metric and the most important ones of validation that differ between the runs."""
    monitor = first_known(runs).monitor
    logged = {name for run in runs for name in run.log.series}
    found = [monitor] if monitor in logged else []
    frechet = sorted(name for name in logged if name.startswith("val/rfid"))
    for metric in [*frechet, *(f"val/{name}" for name in TELLING)]:
        finals = {figure.last for run in runs if (figure := run.figure(metric))}
        if metric in logged and metric not in found and (len(finals) > 1 or len(runs) == 1):
            found.append(metric)
    return found[:SHOWN]


def runs_table(runs: Sequence[Run], metrics: Sequence[str]) -> Table:
    """Return for each run the settings that differ, metrics, status and cost."""
    table, settings = Table(), short_names(differing(runs))
    if len({value_of(run, "seed_everything") for run in runs if run.settings}) > 1:
        settings["seed_everything"] = "seed"

    def add_settings() -> None:
        for name, short_name in settings.items():
            table.add(short_name, (as_cell(value_of(run, name)) for run in runs), name)

    table.add("run", (run.name for run in runs))
    if len(settings) <= FEW:  # so that the metrics stay in sight
        add_settings()
    for metric in metrics[:1]:
        add_metric(table, runs, metric)
    table.add("health", (", ".join(event.event for event in run.events) or "-" for run in runs), "events; see below")
    for metric in metrics[1:]:
        add_metric(table, runs, metric)
    if len(settings) > FEW:
        add_settings()
    table.add("status", (run.status for run in runs))
    table.add("steps", (Cell(f"{run.log.steps:,}", run.log.steps) for run in runs))
    table.add("time", (number(run.seconds, clock) for run in runs), "first to last line of the log")
    table.add("samples/s", (number(run.samples_per_second) for run in runs), "median of train/samples_per_second")
    table.add("peak lr", (number(run.peak_lr) for run in runs), "largest learning rate of the first optimizer")
    return table


def add_metric(table: Table, runs: Sequence[Run], metric: str) -> None:
    """Add the last value of a metric; of the monitored one also the best, and its step."""
    found, known = [run.figure(metric) for run in runs], first_known(runs)
    if metric == known.monitor:
        best = (number(figure.best if figure else None) for figure in found)
        table.add(f"best {metric}", best, f"{metric}, which decides on best.ckpt", known.mode(metric))
        steps = (number(figure.best_step if figure else None, "{:,}".format) for figure in found)
        table.add("at step", steps, f"of the best {metric}")
    table.add(f"last {metric}", (number(figure.last if figure else None) for figure in found), mode=known.mode(metric))


def seeds_table(groups: Sequence[Sequence[Run]], metrics: Sequence[str]) -> Table:
    """Return mean and standard deviation over the repeats of each setting."""
    table, groups = Table(), [group for group in groups if group[0].settings]
    table.add("setting", (group_name(group) for group in groups))
    table.add("runs", (number(len(group)) for group in groups))
    for metric in metrics:
        cells = []
        for group in groups:
            values = [value for run in group if (value := run.value(metric)) is not None]
            spread = f" ± {short(statistics.stdev(values), 2)}" if len(values) > 1 else ""
            cells.append(Cell(f"{short(mean := statistics.fmean(values))}{spread}", mean) if values else Cell("-"))
        table.add(compared(groups[0], metric), cells, mode=first_known(groups[0]).mode(metric))
    return table


def effects_table(runs: Sequence[Run], metrics: Sequence[str]) -> Table:
    """Return the effect of each factor on each metric."""
    names = ("metric", "setting", "from", "to", "mean from", "mean to", "difference", "±", "pairs", "p")
    rows = []
    for metric in metrics:
        for effect in effects(runs, partial(Run.value, metric=metric)):
            means = (number(effect.mean_low), number(effect.mean_high), number(effect.difference, signed))
            pairs = Cell(str(effect.pairs), effect.pairs)
            p = number(effect.p, "{:.2g}".format)._replace(best=effect.is_significant)
            levels = (as_cell(effect.low), as_cell(effect.high))
            spread = number(effect.spread, partial(short, digits=2))
            rows.append((compared(runs, metric), effect.factor, *levels, *means, spread, pairs, p))
    return Table.of(names, rows)


def events_table(runs: Sequence[Run]) -> Table:
    """Return the lines of health.jsonl, equal events together."""
    found = sorted([(event, run.name) for run in runs for event in run.events], key=lambda pair: pair[0].event)
    rows = [
        (event.event.replace("_", " "), name, Cell(f"{event.step:,}", event.step), event.evidence, event.hint)
        for event, name in found
    ]
    return Table.of(("event", "run", "step", "evidence", "hint"), rows)


def all_metrics_table(runs: Sequence[Run]) -> Table:
    """Return every metric of validation and test: the last value, and the best with its step."""
    table = Table()
    table.add("run", (run.name for run in runs))
    logged = sorted({name for run in runs for name in run.log.series})
    for metric in [name for name in logged if name.startswith("val/")] or logged:
        cells = []
        for figure in (run.figure(metric) for run in runs):
            cell = number(figure.last if figure else None)
            if figure and figure.best not in (None, figure.last):
                cell = cell._replace(shown=f"{cell.shown} ({short(figure.best)} at {figure.best_step:,})")
            cells.append(cell)
        table.add(metric, cells, f"{metric}: last (best at step)", first_known(runs).mode(metric))
    for metric in sorted({name for run in runs for name in run.tested}):
        table.add(metric, (number(run.tested.get(metric)) for run in runs), mode=direction(metric))
    return table


def compared(runs: Sequence[Run], metric: str) -> str:
    """Return the name of the value by which runs are compared."""
    return f"{'best' if metric == first_known(runs).monitor else 'last'} {metric}"


def group_name(group: Sequence[Run]) -> str:
    """Return the common part of the names of repeats: ``small`` of ``small_seed0`` and ``small_seed1``."""
    if len(group) == 1:
        return group[0].name
    common = os.path.commonprefix([run.name for run in group])  # noqa: RUF071  # names are no paths
    return common.removesuffix("_seed").rstrip("_-. ") or group[0].name


def number(value: float | None, show: Callable[[float], str] | None = None) -> Cell:
    """Return a number with four digits, or as ``show`` formats it; a dash for None."""
    return Cell("-") if value is None else Cell((show or short)(value), value)


def as_cell(shown: str) -> Cell:
    """Return a setting as it is typed, with its number if it is one."""
    try:
        return Cell(shown, float(shown))
    except ValueError:
        return Cell(shown)


def short(value: float | None, digits: int = 4) -> str:
    """Return some significant digits, without an exponent where none is usual.

    Example:
        >>> short(0.123456), short(1329.28), short(7.0), short(1e-05), short(122.3, 2), short(1329.28, 2)
        ('0.1235', '1,329', '7', '1e-05', '122', '1,329')
    """
    if value is None:
        return "-"
    return f"{value:,.0f}" if 10 ** (digits - 1) <= abs(value) < 1e7 else f"{value:.{digits}g}"


def signed(value: float) -> str:
    """Return three significant digits with the sign."""
    return f"{'+' if value > 0 else ''}{short(value, 3)}"


def plural(count: int, thing: str) -> str:
    """Return ``1 run`` or ``2 runs``."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def clock(seconds: float) -> str:
    """Return a duration.

    Example:
        >>> clock(75), clock(3 * 3600 + 62)
        ('1:15', '3:01:02')
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def align(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield rows of cells as lines with aligned columns.

    Example:
        >>> list(align([("model", "VQVAE"), ("step", "20")]))
        ['model  VQVAE', 'step   20']
    """
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
