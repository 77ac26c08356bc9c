"""Content of a report on a set of runs, as a list of blocks for HTML or Markdown."""

import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from typing import NamedTuple

from vqlab.experiments.curves import draw
from vqlab.experiments.experiment import short_names, shortest_ends
from vqlab.experiments.factors import differing, effects, repeats, value_of
from vqlab.experiments.runs import Run, direction, first_known
from vqlab.experiments.settings import HARMLESS
from vqlab.experiments.text import clock, plural, short

# Metrics of a table besides the monitored one, where they were logged.
TELLING: tuple[str, ...] = (
    "psnr",
    "snr",
    "acc",
    "nll",
    "bits_per_token",
    "npmi",
    "perplexity",
    "codebook_usage",
    "ssim",
    "lpips",
)
TELLING += ("correlation", "accept_rate", "diversity", "classes_drawn", "topic_diversity", "d_acc", "rec_loss")
SHOWN = 6  # metrics of a table
COMPARED = 3  # metrics whose effects are reported
KINDS = {"step": "Samples", "codes": "Use of the codes", "confusion": "Confusion"}


class Cell(NamedTuple):
    """A value of a table."""

    shown: str
    exact: float | None = None  # the number
    best: bool = False  # whether it is the best of its column


class Heading(NamedTuple):
    """A headline."""

    text: str
    level: int = 3


class Table(NamedTuple):
    """A line per run, setting or event."""

    names: Sequence[str]
    rows: Sequence[Sequence[Cell]]


class Pictures(NamedTuple):
    """PNG or SVG files side by side."""

    pictures: Sequence[tuple[str, bytes, str]]  # caption, content, suffix


class Folded(NamedTuple):
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
            "Mean ± standard deviation over pairs of runs that differ in one setting alone, for the two values with "
            "the largest difference. One pair may differ by chance."
        )
        yield effects_table(runs, metrics[:COMPARED])
    if events := [(event.event.replace("_", " "), run.name, event) for run in runs for event in run.events.values()]:
        yield Heading("Health")
        rows = [(event, run, Cell(f"{e.step:,}", e.step), e.evidence, e.hint) for event, run, e in events]
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
        found = [(run.name, *run.pictures[kind]) for run in runs if kind in run.pictures]
        yield Pictures([(f"{name}, step {step:,}", path.read_bytes(), ".png") for name, step, path in found])
    known = [run for run in runs if run.settings]
    names = [name for name in first_known(runs).settings if not name.startswith(HARMLESS)]
    if common := [name for name in names if len({value_of(run, name) for run in known}) == 1]:
        values = [(name, value_of(known[0], name)) for name in common]
        yield Folded(f"{plural(len(common), 'setting')} in common", table_of(("setting", "value"), values))


def summary(runs: Sequence[Run]) -> Iterator[str]:
    """Yield sentences: number and status of the runs, the best, health events."""
    groups, known = repeats(runs), first_known(runs)
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
    if events := Counter(event.replace("_", " ") for run in runs for event in run.events):
        parts = [f"{event} in {plural(count, 'run')}" for event, count in events.items()]
        yield f"Health: {', '.join(parts)}."


# Tables


def runs_table(runs: Sequence[Run], metrics: Sequence[str]) -> Table:
    """Return for each run the most important metrics, settings that differ, status, cost, and all other metrics."""
    names = short_names(differing(runs))
    if len({value_of(run, "seed_everything") for run in runs if run.settings}) > 1:
        names["seed_everything"] = "seed"
    columns = [("run", [Cell(run.name) for run in runs])]
    columns += [column for metric in metrics[:1] for column in metric_columns(runs, metric)]
    columns += [("health", [Cell(", ".join(run.events) or "-") for run in runs])]
    columns += [column for metric in metrics[1:] for column in metric_columns(runs, metric)]
    columns += [(short, [setting(value_of(run, name)) for run in runs]) for name, short in names.items()]
    columns += [
        ("status", [Cell(run.status) for run in runs]),
        ("steps", numbers([run.log.steps for run in runs], show="{:,}".format)),
        ("time", numbers([run.seconds for run in runs], show=clock)),
        ("samples/s", numbers([run.samples_per_second for run in runs])),
        ("peak lr", numbers([run.peak_lr for run in runs])),
    ]
    for metric in sorted({name for run in runs for name in run.tested}):
        columns.append((metric, numbers([run.tested.get(metric) for run in runs], direction(metric))))
    for metric in sorted({name for run in runs for name in run.log.series if name.startswith("val/")} - {*metrics}):
        columns += metric_columns(runs, metric)
    return columns_table(columns)


def metric_columns(runs: Sequence[Run], metric: str) -> Columns:
    """Return the last value of a metric; of the monitored one also the best, and its step."""
    found, known = [run.figure(metric) for run in runs], first_known(runs)
    mode = known.mode(metric)
    last = (f"last {metric}", numbers([figure.last if figure else None for figure in found], mode))
    if metric != known.monitor:
        return [last]
    best = (f"best {metric}", numbers([figure.best if figure else None for figure in found], mode))
    steps = [figure.best_step if figure else None for figure in found]
    return [best, ("at step", numbers(steps, show="{:,}".format)), last]


def seeds_table(groups: Sequence[Sequence[Run]], metrics: Sequence[str]) -> Table:
    """Return mean and standard deviation over the repeats of each setting."""
    groups = [group for group in groups if group[0].settings]
    columns = [("setting", [Cell(group_name(g)) for g in groups]), ("runs", numbers([len(g) for g in groups]))]
    for metric in metrics:
        found = [[value for run in group if (value := run.value(metric)) is not None] for group in groups]
        cells = numbers([statistics.fmean(v) if v else None for v in found], first_known(groups[0]).mode(metric))
        spreads = [f" ± {short(statistics.stdev(values), 2)}" if len(values) > 1 else "" for values in found]
        cells = [c._replace(shown=c.shown + spread) for c, spread in zip(cells, spreads, strict=True)]
        columns.append((compared(groups[0], metric), cells))
    return columns_table(columns)


def effects_table(runs: Sequence[Run], metrics: Sequence[str]) -> Table:
    """Return the effect of each factor on each metric."""
    rows: list[Sequence[Cell | str]] = []
    for metric in metrics:
        for factor, low, high, differences in effects(runs, partial(Run.value, metric=metric)):
            mean = statistics.fmean(differences) if differences else None
            spread = statistics.stdev(differences) if len(differences) > 1 else None
            cells = (*numbers([mean], show="{:+.3g}".format), *numbers([spread]), *numbers([len(differences)]))
            rows.append((compared(runs, metric), factor, setting(low), setting(high), *cells))
    return table_of(("metric", "setting", "from", "to", "difference", "±", "pairs"), rows)


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


def curves(groups: Sequence[Sequence[Run]], metrics: Sequence[str]) -> Pictures:
    """Return a picture per metric with a line for each run; repeats share a colour."""
    pictures = []
    for metric in metrics:
        lines = [
            (number, group_name(group), run.log.series[metric])
            for number, group in enumerate(groups)
            for run in group
            if metric in run.log.series
        ]
        pictures.append((metric, draw(lines, log=direction(metric) != "max"), ".svg"))
    return Pictures(pictures)


def telling_metrics(runs: Sequence[Run]) -> list[str]:
    """Return the monitored metric and the most important ones of validation, where they were logged."""
    logged = {name for run in runs for name in run.log.series}
    frechet = sorted(name for name in logged if name.startswith("val/rfid"))
    names = dict.fromkeys([first_known(runs).monitor, *frechet, *(f"val/{name}" for name in TELLING)])
    return [name for name in names if name in logged][:SHOWN]


def compared(runs: Sequence[Run], metric: str) -> str:
    """Return the name of the value by which runs are compared."""
    return f"{'best' if metric == first_known(runs).monitor else 'last'} {metric}"


def group_name(group: Sequence[Run]) -> str:
    """Return the common part of the names of repeats: ``small`` of ``small_seed0`` and ``small_seed1``."""
    if len(group) == 1:
        return group[0].name
    common = os.path.commonprefix([run.name for run in group])  # noqa: RUF071  # names are no paths
    return common.removesuffix("_seed").rstrip("_-. ") or group[0].name
