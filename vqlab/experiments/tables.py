"""The tables of a report: what differed, what it cost, what came out."""

import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from vqlab.experiments.experiment import short_names
from vqlab.experiments.factors import columns, differing, value_of
from vqlab.experiments.runs import Figure, Run, direction, judge
from vqlab.experiments.status import clock

# Metrics that a table shows, of those that were logged, the monitored one apart.
TELLING: tuple[str, ...] = ("psnr", "snr", "acc", "nll", "bits_per_token", "npmi", "perplexity", "codebook_usage")
TELLING += ("ssim", "lpips", "correlation", "accept_rate", "diversity", "classes_drawn", "topic_diversity")
TELLING += ("d_acc", "rec_loss")
SHOWN = 6  # how many metrics a table shows
FEW = 4  # settings that may stand in front of the figures


class Cell(NamedTuple):
    """A figure as it is shown, as it is, and whether it is the best of its column."""

    shown: str
    exact: float | None = None
    best: bool = False


@dataclass
class Table:
    """Columns with short and full names, and a line per run or group of runs."""

    names: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    columns: list[list[Cell]] = field(default_factory=list)

    def add(self, name: str, cells: Iterable[Cell | str], hint: str = "", mode: str | None = None) -> None:
        """Add a column; ``mode`` says whether ``min`` or ``max`` is best."""
        column = [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells]
        known = [cell.exact for cell in column if cell.exact is not None and cell.exact == cell.exact]
        if mode and len(set(known)) > 1:
            best = (min if mode == "min" else max)(known)
            column = [cell._replace(best=cell.exact == best) for cell in column]
        self.names.append(name)
        self.hints.append(hint or name)
        self.columns.append(column)

    def extend(self, other: "Table") -> None:
        """Add the columns of another table with the same lines."""
        self.names += other.names
        self.hints += other.hints
        self.columns += other.columns

    @property
    def lines(self) -> list[list[Cell]]:
        """The table, line by line."""
        return [list(line) for line in zip(*self.columns, strict=True)]


def telling_metrics(runs: Sequence[Run]) -> list[str]:
    """Return the monitored metric and then those of validation that say most, less what is the same in all runs."""
    monitor = judge(runs).monitor
    logged = {name for run in runs for name in run.log.series}
    found = [monitor] if monitor in logged else []
    frechet = sorted(name for name in logged if name.startswith("val/rfid"))
    for metric in [*frechet, *(f"val/{name}" for name in TELLING)]:
        finals = {figure.last for run in runs if (figure := run.figure(metric))}
        if metric in logged and metric not in found and (len(finals) > 1 or len(runs) == 1):
            found.append(metric)
    return found[:SHOWN]


def runs_table(runs: Sequence[Run], metrics: Sequence[str]) -> Table:
    """Return run, the settings that differ, what came out, how it ended, and what it cost."""
    table = Table()
    table.add("run", (run.name for run in runs))
    settings, figures, others = Table(), Table(), Table()
    varied = columns(runs)
    short_name = short_names(differing(runs))
    for name, alike in varied.items():
        settings.add(short_name[name], (setting(value_of(run, name)) for run in runs), ", ".join(alike))
    if len({value_of(run, "seed_everything") for run in runs if run.settings}) > 1:
        settings.add("seed", (setting(value_of(run, "seed_everything")) for run in runs), "seed_everything")
    for metric in metrics[:1]:
        add_metric(figures, runs, metric)
    figures.add("verdict", map(verdict, runs), "how it ended, and what health.jsonl says; details below")
    for metric in metrics[1:]:
        add_metric(others, runs, metric)
    few = len(settings.names) <= FEW  # so that what came out stays in sight
    for part in (settings, figures, others) if few else (figures, settings, others):
        table.extend(part)
    table.add("steps", (Cell(f"{run.log.steps:,}", run.log.steps) for run in runs))
    table.add("time", (number(run.seconds, clock) for run in runs), "first to last line of the log")
    table.add("samples/s", (number(run.samples_per_second) for run in runs), "median of train/samples_per_second")
    if "model.lr" not in varied or any(
        run.equivalent_lr != run.settings.get("model.lr") for run in runs if run.settings
    ):
        rates = (number(run.equivalent_lr) for run in runs)
        table.add(
            "equivalent lr", rates, "lr, or base_lr x batch x devices x nodes x accumulation, or the log's largest"
        )
    return table


def add_metric(table: Table, runs: Sequence[Run], metric: str) -> None:
    """Add the last value of a metric; of the monitored one also the best, and its step."""
    found = [run.figure(metric) for run in runs]
    mode = judge(runs).mode(metric)
    if metric == judge(runs).monitor:
        best = (number(figure.best if figure else None) for figure in found)
        table.add(f"best {metric}", best, f"{metric}, decides on best.ckpt", mode)
        steps = (number(figure.best_step if figure else None, "{:,}".format) for figure in found)
        table.add("at step", steps, f"of the best {metric}")
    table.add(f"last {metric}", (number(figure.last if figure else None) for figure in found), mode=mode)


def verdict(run: Run) -> str:
    """Return how a run ended and what went wrong in it."""
    return "; ".join([run.status, *(f"{v.event.replace('_', ' ')} at {v.step:,}" for v in run.verdicts)])


def seeds_table(groups: Sequence[Sequence[Run]], metrics: Sequence[str]) -> Table:
    """Return mean and standard deviation over the repeats of each setting."""
    table, groups = Table(), [group for group in groups if group[0].settings]
    table.add("setting", (group_name(group) for group in groups))
    table.add("runs", (str(len(group)) for group in groups))
    for metric in metrics:
        is_monitored = metric == judge(groups[0]).monitor
        cells = []
        for group in groups:
            values = [value for run in group if (value := run.value(metric)) is not None]
            spread = f" ± {short(statistics.stdev(values), 2)}" if len(values) > 1 else ""
            cells.append(Cell(f"{short(mean := statistics.fmean(values))}{spread}", mean) if values else Cell("-"))
        table.add(f"{'best' if is_monitored else 'last'} {metric}", cells, mode=judge(groups[0]).mode(metric))
    return table


def figures_table(runs: Sequence[Run]) -> Table:
    """Return every metric of validation and test: the last value, and the best with its step."""
    table = Table()
    table.add("run", (run.name for run in runs))
    logged = sorted({name for run in runs for name in run.log.series})
    for metric in [name for name in logged if name.startswith("val/")] or logged:
        found = [run.figure(metric) for run in runs]
        mode = judge(runs).mode(metric)
        table.add(metric, (last_and_best(f) for f in found), f"{metric}: last (best at step)", mode)
    for metric in sorted({name for run in runs for name in run.tested}):
        table.add(metric, (number(run.tested.get(metric)) for run in runs), mode=direction(metric))
    return table


def group_name(group: Sequence[Run]) -> str:
    """Return what the names of repeats have in common: ``small`` of ``small_seed0`` and ``small_seed1``."""
    if len(group) == 1:
        return group[0].name
    common = os.path.commonprefix([run.name for run in group])  # noqa: RUF071  # names are no paths
    return common.removesuffix("_seed").rstrip("_-. ") or group[0].name


def number(value: float | None, show: Callable[[float], str] | None = None) -> Cell:
    """Return a figure with four digits, or as ``show`` says; a dash for none."""
    return Cell("-") if value is None else Cell((show or short)(value), value)


def last_and_best(figure: Figure | None) -> Cell:
    """Return the last value, and behind it the best where it is another one."""
    if figure is None:
        return Cell("-")
    best = "" if figure.best in (None, figure.last) else f" ({short(figure.best)} at {figure.best_step:,})"
    return Cell(f"{short(figure.last)}{best}", figure.last)


def setting(shown: str) -> Cell:
    """Return a setting as it is typed, with its number if it is one."""
    try:
        return Cell(shown, float(shown))
    except ValueError:
        return Cell(shown)


def short(value: float | None, digits: int = 4) -> str:
    """Return some significant digits, without an exponent where a person would write none.

    Example:
        >>> short(0.123456), short(1329.28), short(7.0), short(1e-05), short(122.3, 2), short(1329.28, 2)
        ('0.1235', '1,329', '7', '1e-05', '122', '1,329')
    """
    if value is None:
        return "-"
    return f"{value:,.0f}" if 10 ** (digits - 1) <= abs(value) < 1e7 else f"{value:.{digits}g}"
