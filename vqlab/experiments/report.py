"""Content of a report on a set of runs, as a list of blocks for HTML or Markdown."""

import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import NamedTuple

from vqlab.experiments.curves import draw
from vqlab.experiments.experiment import short_names, shortest_ends
from vqlab.experiments.factors import differing, effects, repeats, value_of
from vqlab.experiments.runs import Run, direction, first_known
from vqlab.experiments.settings import HARMLESS
from vqlab.experiments.text import clock, plural, short, signed

# Metrics of a table besides the monitored one, where they were logged.
TELLING = ("psnr", "snr", "acc", "nll", "bits_per_token", "npmi", "perplexity", "codebook_usage", "ssim", "lpips")
TELLING += ("correlation", "accept_rate", "diversity", "classes_drawn", "topic_diversity", "d_acc", "rec_loss")
SHOWN = 6  # metrics of a table
FEW = 4  # settings that may stand in front of the metrics
COMPARED = 3  # metrics whose effects are reported
KINDS = {"step": "Samples", "codes": "Use of the codes", "confusion": "Confusion"}


class Cell(NamedTuple):
    """A value as it is shown, its exact number, and whether it is the best of its column."""

    shown: str
    exact: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Heading:
    """A headline."""

    text: str
    level: int = 3


@dataclass(frozen=True)
class Table:
    """A line per run, setting or event."""

    names: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Picture:
    """A PNG or SVG file with its caption."""

    caption: str
    content: bytes
    suffix: str


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side."""

    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Folded:
    """A block that the reader opens."""

    title: str
    content: Table | Pictures


Block = Heading | str | Table | Pictures | Folded
Columns = list[tuple[str, list[Cell]]]


def write_report(runs: Sequence[Run]) -> tuple[list[str], list[Block]]:
    """Return the summary of each model in one line, and the blocks of the report; names the runs."""
    models: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        models[run.model.lower()].append(run)
    summaries, blocks = [], list(problems(runs))
    for of_model in models.values():
        for run, name in zip(of_model, shortest_ends([r.folder.absolute().parts for r in of_model], "/"), strict=True):
            run.name = name
        summaries.append(" ".join(summary(of_model)))
        blocks += [Heading(first_known(of_model).model, level=2), summaries[-1], *section(of_model)]
    return summaries, blocks


def problems(runs: Sequence[Run]) -> Iterator[Block]:
    """Yield a table of missing and damaged files and of failures."""
    found = [(str(run.folder), problem) for run in runs for problem in run.problems]
    found += [(str(run.folder), f"failed: {run.error}") for run in runs if run.status == "failed"]
    if found:
        yield Heading("Damaged or failed")
        yield table_of(("run", "problem"), found)


def section(runs: Sequence[Run]) -> Iterator[Block]:
    """Yield the blocks on the runs of one model."""
    groups, metrics = repeats(runs), telling_metrics(runs)
    yield runs_table(runs, metrics)
    if any(len(group) > 1 for group in groups):
        yield Heading("Mean ± standard deviation over seeds")
        yield seeds_table(groups, metrics)
    if metrics and differing(runs):
        yield Heading("Effects of the settings")
        yield (
            "Mean over pairs of runs that differ in one setting alone, for the two values with the largest difference; "
            "p of a paired t-test, corrected (Bonferroni) for more than two values. One pair may differ by chance."
        )
        yield effects_table(runs, metrics[:COMPARED])
    if events := sorted((event.event, event.step, run.name, event) for run in runs for event in run.events):
        yield Heading("Health")
        rows = [
            (name.replace("_", " "), run, Cell(f"{step:,}", step), e.evidence, e.hint) for name, step, run, e in events
        ]
        yield table_of(("event", "run", "step", "evidence", "hint"), rows)
    logged = sorted({name for run in runs for name in run.log.series})
    telling = [*metrics, *({"train/loss"} & {*logged} - {*metrics})]
    if telling:
        yield Heading("Curves")
        yield "By steps done; running means over the raw values."
        yield curves(groups, telling)
    if others := [name for name in logged if name not in telling]:
        yield Folded(plural(len(others), "more curve"), curves(groups, others))
    for kind in sorted({kind for run in runs for kind in run.pictures}, reverse=True):  # step_*.png first
        yield Heading(KINDS.get(kind, kind))
        yield from samples(runs, kind)
    yield Folded("All metrics", all_metrics_table(runs))
    if common := common_settings([run for run in runs if run.settings]):
        yield Folded(f"{plural(len(common), 'setting')} in common", table_of(("setting", "value"), common))


def summary(runs: Sequence[Run]) -> Iterator[str]:
    """Yield sentences: number and status of the runs, the best, significant effects, health events."""
    groups, metrics, known = repeats(runs), telling_metrics(runs), first_known(runs)
    counts = Counter(run.status for run in runs).most_common()
    states = ", ".join(f"{count} {status}" for status, count in counts)
    if len(counts) == 1:
        states = counts[0][0] if len(runs) == 1 else f"all {counts[0][0]}"
    settings = [group for group in groups if group[0].settings]
    repeated = f", {plural(len(settings), 'setting')} with repeats" if any(len(group) > 1 for group in settings) else ""
    yield f"{plural(len(runs), 'run')} of {known.model}{repeated}: {states}."
    figures = [(run.figure(known.monitor), run) for run in runs]
    if bests := [(figure.best, figure.best_step, run) for figure, run in figures if figure and figure.best_step]:
        best, step, run = (min if known.mode(known.monitor) == "min" else max)(bests, key=itemgetter(0))
        yield f"Best {known.monitor}: {short(best)} at step {step:,}{f', by {run.name}' if len(runs) > 1 else ''}."
    for metric in metrics[:COMPARED]:
        for effect in effects(runs, partial(Run.value, metric=metric)):
            if effect.is_significant and effect.difference is not None:
                change = f"{signed(effect.difference)} ± {short(effect.spread, 2)}"
                levels = f"{effect.factor} ({effect.low} to {effect.high})"
                yield f"{levels} changed {compared(runs, metric)} by {change} ({plural(effect.pairs, 'pair')})."
    if events := Counter(event.event.replace("_", " ") for run in runs for event in run.events):
        parts = [f"{event} in {plural(count, 'run')}" for event, count in events.items()]
        yield f"Health: {', '.join(parts)}."


# Tables


def runs_table(runs: Sequence[Run], metrics: Sequence[str]) -> Table:
    """Return for each run the settings that differ, metrics, status and cost."""
    names = short_names(differing(runs))
    if len({value_of(run, "seed_everything") for run in runs if run.settings}) > 1:
        names["seed_everything"] = "seed"
    settings = [(short, [setting(value_of(run, name)) for run in runs]) for name, short in names.items()]
    columns: Columns = [("run", [Cell(run.name) for run in runs])]
    columns += settings if len(settings) <= FEW else []  # so that the metrics stay in sight
    columns += [column for metric in metrics[:1] for column in metric_columns(runs, metric)]
    columns.append(("health", [Cell(", ".join(event.event for event in run.events) or "-") for run in runs]))
    columns += [column for metric in metrics[1:] for column in metric_columns(runs, metric)]
    columns += settings if len(settings) > FEW else []
    columns.append(("status", [Cell(run.status) for run in runs]))
    columns.append(("steps", numbers([run.log.steps for run in runs], show="{:,}".format)))
    columns.append(("time", numbers([run.seconds for run in runs], show=clock)))
    columns.append(("samples/s", numbers([run.samples_per_second for run in runs])))
    columns.append(("peak lr", numbers([run.peak_lr for run in runs])))
    return columns_table(columns)


def metric_columns(runs: Sequence[Run], metric: str) -> Columns:
    """Return the last value of a metric; of the monitored one also the best, and its step."""
    found, known = [run.figure(metric) for run in runs], first_known(runs)
    mode = known.mode(metric)
    last = (f"last {metric}", numbers([figure and figure.last for figure in found], mode))
    if metric != known.monitor:
        return [last]
    best = (f"best {metric}", numbers([figure and figure.best for figure in found], mode))
    return [best, ("at step", numbers([figure and figure.best_step for figure in found], show="{:,}".format)), last]


def seeds_table(groups: Sequence[Sequence[Run]], metrics: Sequence[str]) -> Table:
    """Return mean and standard deviation over the repeats of each setting."""
    groups = [group for group in groups if group[0].settings]
    columns: Columns = [("setting", [Cell(group_name(group)) for group in groups])]
    columns.append(("runs", numbers([len(group) for group in groups])))
    for metric in metrics:
        found = [[value for run in group if (value := run.value(metric)) is not None] for group in groups]
        cells = numbers([statistics.fmean(v) if v else None for v in found], first_known(groups[0]).mode(metric))
        spreads = [f" ± {short(statistics.stdev(values), 2)}" if len(values) > 1 else "" for values in found]
        cells = [c._replace(shown=c.shown + spread) for c, spread in zip(cells, spreads, strict=True)]
        columns.append((compared(groups[0], metric), cells))
    return columns_table(columns)


def effects_table(runs: Sequence[Run], metrics: Sequence[str]) -> Table:
    """Return the effect of each factor on each metric."""
    names = ("metric", "setting", "from", "to", "mean from", "mean to", "difference", "±", "pairs", "p")
    rows = []
    for metric in metrics:
        for effect in effects(runs, partial(Run.value, metric=metric)):
            means = numbers([effect.mean_low, effect.mean_high])
            spread = [
                *numbers([effect.difference], show=signed),
                *numbers([effect.spread], show=partial(short, digits=2)),
            ]
            (p,) = numbers([effect.p], show="{:.2g}".format)
            levels = (setting(effect.low), setting(effect.high))
            ends = (Cell(str(effect.pairs), effect.pairs), p._replace(best=effect.is_significant))
            rows.append((compared(runs, metric), effect.factor, *levels, *means, *spread, *ends))
    return table_of(names, rows)


def all_metrics_table(runs: Sequence[Run]) -> Table:
    """Return every metric of validation and test: the last value, and the best with its step."""
    columns: Columns = [("run", [Cell(run.name) for run in runs])]
    logged = sorted({name for run in runs for name in run.log.series})
    for metric in [name for name in logged if name.startswith("val/")] or logged:
        figures = [run.figure(metric) for run in runs]
        cells = numbers([figure and figure.last for figure in figures], first_known(runs).mode(metric))
        for place, figure in enumerate(figures):
            if figure and figure.best not in (None, figure.last):
                best = f"{cells[place].shown} ({short(figure.best)} at {figure.best_step:,})"
                cells[place] = cells[place]._replace(shown=best)
        columns.append((metric, cells))
    for metric in sorted({name for run in runs for name in run.tested}):
        columns.append((metric, numbers([run.tested.get(metric) for run in runs], direction(metric))))
    return columns_table(columns)


def table_of(names: Sequence[str], rows: Iterable[Sequence[Cell | str]]) -> Table:
    """Return a table of rows of cells and texts."""
    return Table(names, [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows])


def columns_table(columns: Columns) -> Table:
    """Return a table of columns."""
    return Table([name for name, _ in columns], list(zip(*(cells for _, cells in columns), strict=True)))


def numbers(values: Sequence[float | None], mode: str | None = None, show: Callable = short) -> list[Cell]:
    """Return a column of numbers, a dash for None; ``mode`` is ``min`` or ``max``, whichever is best."""
    known = [value for value in values if value is not None and value == value]
    best = (min if mode == "min" else max)(known) if mode and len(set(known)) > 1 else None
    return [Cell("-") if v is None else Cell(show(v), v, v == best) for v in values]


def setting(shown: str) -> Cell:
    """Return a setting as it is typed, with its number if it is one."""
    try:
        return Cell(shown, float(shown))
    except ValueError:
        return Cell(shown)


# Curves and pictures


def curves(groups: Sequence[Sequence[Run]], metrics: Sequence[str]) -> Pictures:
    """Return a picture per metric with a line for each run; repeats share a colour."""
    found = []
    for metric in metrics:
        lines = [
            (number, group_name(group), run.log.series[metric])
            for number, group in enumerate(groups)
            for run in group
            if metric in run.log.series
        ]
        found.append(Picture(metric, draw(lines, log=direction(metric) != "max"), ".svg"))
    return Pictures(found)


def samples(runs: Sequence[Run], kind: str) -> Iterator[Block]:
    """Yield the last picture of each run, and a line for each that cannot be read."""
    found = []
    for run in runs:
        if kind in run.pictures:
            step, path = run.pictures[kind]
            try:
                found.append(Picture(f"{run.name}, step {step:,}", path.read_bytes(), ".png"))
            except OSError as error:
                yield f"{run.name}: {path.name} cannot be read ({error.strerror})"
    yield Pictures(found)


# What the runs have in common


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


def compared(runs: Sequence[Run], metric: str) -> str:
    """Return the name of the value by which runs are compared."""
    return f"{'best' if metric == first_known(runs).monitor else 'last'} {metric}"


def group_name(group: Sequence[Run]) -> str:
    """Return the common part of the names of repeats: ``small`` of ``small_seed0`` and ``small_seed1``."""
    if len(group) == 1:
        return group[0].name
    common = os.path.commonprefix([run.name for run in group])  # noqa: RUF071  # names are no paths
    return common.removesuffix("_seed").rstrip("_-. ") or group[0].name


def common_settings(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return the settings that are the same in all runs, except those without influence on metrics."""
    varied = {*differing(runs)}
    names = [name for name in runs[0].settings if not name.startswith(HARMLESS)] if runs else []
    same = [name for name in names if name not in varied and len({value_of(run, name) for run in runs}) == 1]
    return [(name, value_of(runs[0], name)) for name in same]
