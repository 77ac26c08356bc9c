"""Content of a report on a set of runs, as sections of tables and pictures for HTML or Markdown."""

import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import chain, zip_longest
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from vqlab.experiments.curves import draw
from vqlab.experiments.experiment import short_names, shortest_ends
from vqlab.experiments.factors import differing, effects, in_groups, repeats, value_of
from vqlab.experiments.runs import Run, direction, first_known
from vqlab.experiments.settings import HARMLESS
from vqlab.experiments.text import plural, short

# Metrics of a table besides the monitored one, where they were logged.
KEY_METRICS = "psnr snr acc nll bits_per_token npmi perplexity codebook_usage ssim lpips correlation accept_rate"
KEY_METRICS += " diversity classes_drawn topic_diversity d_acc rec_loss"
SHOWN = 6  # metrics of a table
COMPARED = 3  # metrics whose effects are reported
STAGES = 4  # pictures of each kind and run
KINDS = {
    "step": "Samples",
    "codes": "Code usage",
    "top": "Reconstructions from the most frequent codes",
    "statistics": "Codes by class and position",
    "confusion": "Confusion",
}


class Cell(NamedTuple):
    """A value of a table."""

    shown: str
    exact: float | None = None  # the number
    best: bool = False  # whether it is the best of its column
    folder: str = ""  # run folder that it links to


class Table(NamedTuple):
    """A table with a line per run, setting or event."""

    title: str
    names: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    folded: bool = False  # whether the reader has to open it


class Pictures(NamedTuple):
    """PNG, SVG or GIF files side by side."""

    title: str
    pictures: Sequence[tuple[str, bytes, str, str]]  # caption, content, suffix, run
    note: str = ""
    folded: bool = False


class Section(NamedTuple):
    """All runs of one model; the problems of all runs have a section without a title."""

    title: str
    summary: str
    blocks: Sequence[Table | Pictures]


Columns = list[tuple[str, list[Cell]]]


def write_report(runs: Sequence[Run], together: bool = False) -> list[Section]:
    """Return the sections of the report, one per model or one for all runs ``together``; sets the names of the runs."""
    models: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        models["" if together else run.model.lower()].append(run)
    problems = [(str(run.folder), problem) for run in runs for problem in run.problems]
    problems += [(str(run.folder), f"failed: {run.error}") for run in runs if run.status == "failed"]
    damaged = table_of("Damaged or failed", ("run", "problem"), problems)
    sections = [Section("", "", [damaged])] if problems else []
    for of_model in models.values():
        for run, name in zip(of_model, shortest_ends([r.folder.absolute().parts for r in of_model], "/"), strict=True):
            run.name = name
        sections.append(Section(name_of_models(of_model), " ".join(summary(of_model)), list(blocks(of_model))))
    return sections


def name_of_models(runs: Sequence[Run]) -> str:
    """Return the model, or both models, of runs."""
    return " and ".join(dict.fromkeys(run.model for run in runs if run.settings) or [runs[0].model])


def blocks(runs: Sequence[Run]) -> Iterator[Table | Pictures]:
    """Yield tables and pictures of the runs of one model."""
    groups, metrics = repeats(runs), key_metrics(runs)
    yield runs_table(runs, metrics)
    if len(runs) == 2 and (names := differing(runs)):
        values = [(name, *(value_of(run, name) for run in runs)) for name in names]
        yield table_of("Settings that differ", ("setting", *(run.name for run in runs)), values)
    if any(len(group) > 1 for group in groups):
        yield seeds_table(groups, metrics)
    if metrics and differing(runs):
        yield effects_table(runs, metrics[:COMPARED])
    if events := [(name.replace("_", " "), run.name, e) for run in runs for name, e in run.events.items()]:
        rows = [(name, run, Cell(f"{step:,}", step), why, hint) for name, run, (step, why, hint) in events]
        yield table_of("Health", ("event", "run", "step", "evidence", "hint"), rows)
    logged = sorted({name for run in runs for name in run.log.series})
    if shown := [*metrics, *({"train/loss"} & {*logged} - {*metrics})]:
        note = "Values by completed steps: mean and range of intervals."
        yield Pictures("Curves", curves(groups, shown), note)
    if others := [name for name in logged if name not in shown]:
        yield Pictures(plural(len(others), "more curve"), curves(groups, others), folded=True)
    kinds = {kind for run in runs for kind in run.pictures}
    for kind in [*(kind for kind in KINDS if kind in kinds), *sorted(kinds - KINDS.keys())]:
        stages = [[(run.name, *point) for point in spread(run.pictures.get(kind, []))] for run in runs]
        # Two runs are side by side, step by step.
        shown_in_time = filter(None, chain(*(zip_longest(*stages) if len(runs) == 2 else stages)))
        pictures = [(f"{name}, step {step:,}", path.read_bytes(), ".png", name) for name, step, path in shown_in_time]
        yield Pictures(KINDS.get(kind, kind), pictures)
    if films := [(run.name, run.film.read_bytes(), ".gif", run.name) for run in runs if run.film]:
        yield Pictures("Images over the training", films)
    known = [run for run in runs if run.settings]
    names = in_groups(name for name in first_known(runs).settings if not name.startswith(HARMLESS))
    if common := [(name, value_of(known[0], name)) for name in names if len({value_of(r, name) for r in known}) == 1]:
        yield table_of(f"{plural(len(common), 'setting')} in common", ("setting", "value"), common)._replace(
            folded=True
        )


def spread(pictures: Sequence[tuple[int, Path]]) -> list[tuple[int, Path]]:
    """Return at most ``STAGES`` pictures of a run, from the first to the last."""
    last = len(pictures) - 1
    return [pictures[i] for i in sorted({round(last * stage / (STAGES - 1)) for stage in range(STAGES)}) if last >= 0]


def summary(runs: Sequence[Run]) -> Iterator[str]:
    """Yield sentences: number and status of the runs, the best run, health events."""
    groups, known = repeats(runs), first_known(runs)
    counts = Counter(run.status for run in runs).most_common()
    states = ", ".join(f"{count} {status}" for status, count in counts)
    if len(counts) == 1:
        states = counts[0][0] if len(runs) == 1 else f"all {counts[0][0]}"
    settings = [group for group in groups if group[0].settings]
    repeated = f", {plural(len(settings), 'setting')} with repeats" if any(len(group) > 1 for group in settings) else ""
    yield f"{plural(len(runs), 'run')} of {name_of_models(runs)}{repeated}: {states}."
    found = [(run.figure(known.monitor), run) for run in runs]
    if bests := [(figure.best, figure.best_step, run) for figure, run in found if figure and figure.best_step]:
        best, step, run = (min if known.mode(known.monitor) == "min" else max)(bests, key=itemgetter(0))
        yield f"Best {known.monitor}: {short(best)} at step {step:,}{f', by {run.name}' if len(runs) > 1 else ''}."
    if events := Counter(event.replace("_", " ") for run in runs for event in run.events):
        yield "Health: " + ", ".join(f"{event} in {plural(count, 'run')}" for event, count in events.items()) + "."


def runs_table(runs: Sequence[Run], metrics: Sequence[str]) -> Table:
    """Return for each run the most important metrics, settings that differ, status, cost, and all other metrics."""
    names = short_names(differing(runs))
    if len({value_of(run, "seed_everything") for run in runs if run.settings}) > 1:
        names["seed_everything"] = "seed"
    first, *others = [metric_columns(runs, metric) for metric in metrics] or [[]]
    tested = sorted({name for run in runs for name in run.tested})
    validated = {name for run in runs for name in run.log.series if name.startswith("val/")}
    columns = [
        ("run", [Cell(run.name, folder=str(run.folder)) for run in runs]),
        *first,
        *optional("note", [run.note for run in runs]),
        ("health", [Cell(", ".join(run.events) or "-") for run in runs]),
        *chain(*others),
        *((short, [setting(value_of(run, name)) for run in runs]) for name, short in names.items()),
        ("status", [Cell(run.status) for run in runs]),
        ("started", [Cell(run.started) for run in runs]),
        *optional("experiment", [run.sweep.experiment for run in runs]),
        ("steps", numbers([run.log.steps for run in runs], show="{:,}".format)),
        *optional("steps scaled by", [run.sweep.scaled for run in runs]),
        ("time", numbers([run.seconds for run in runs], show=lambda value: str(timedelta(seconds=round(value))))),
        ("samples/s", numbers([run.samples_per_second for run in runs])),
        ("peak lr", numbers([run.peak_lr for run in runs])),
        *((name, numbers([run.tested.get(name) for run in runs], direction(name))) for name in tested),
        *chain(*(metric_columns(runs, metric) for metric in sorted(validated - {*metrics}))),
    ]
    return columns_table("", columns)


def optional(name: str, texts: Sequence[str]) -> Columns:
    """Return a column of texts, none if all are empty."""
    return [(name, [Cell(text or "-") for text in texts])] if any(texts) else []


def metric_columns(runs: Sequence[Run], metric: str) -> Columns:
    """Return the last value of a metric; for the monitored metric also the best value and its step."""
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
        columns.append((compared(groups[0], metric), mean_cells(groups, metric)))
    return columns_table("Mean ± standard deviation over seeds", columns)


def mean_cells(groups: Sequence[Sequence[Run]], metric: str) -> list[Cell]:
    """Return mean and standard deviation of a metric over the repeats of each setting."""
    found = [known_values(group, metric) for group in groups]
    cells = numbers([statistics.fmean(v) if v else None for v in found], first_known(groups[0]).mode(metric))
    spreads = [f" ± {short(statistics.stdev(values), 2)}" if len(values) > 1 else "" for values in found]
    return [c._replace(shown=c.shown + spread) for c, spread in zip(cells, spreads, strict=True)]


def effects_table(runs: Sequence[Run], metrics: Sequence[str]) -> Table:
    """Return the effect of each factor on each metric."""
    rows: list[Sequence[Cell | str]] = []
    for metric in metrics:
        for factor, low, high, differences in effects(runs, metric):
            mean = statistics.fmean(differences) if differences else None
            spread = statistics.stdev(differences) if len(differences) > 1 else None
            cells = (*numbers([mean], show="{:+.3g}".format), *numbers([spread, len(differences)]))
            rows.append((compared(runs, metric), factor, setting(low), setting(high), *cells))
    note = (
        "Mean ± standard deviation over pairs of runs that differ in one setting only, for the two values with the "
        "largest difference. The difference of a single pair may be chance."
    )
    names = ("metric", "setting", "from", "to", "difference", "±", "pairs")
    return table_of("Effects of the settings", names, rows, note)


def known_values(runs: Sequence[Run], metric: str) -> list[float]:
    """Return the values by which runs are compared, of those that have one."""
    return [value for run in runs if (value := run.value(metric)) is not None]


def table_of(title: str, names: Sequence[str], rows: Iterable[Sequence[Cell | str]], note: str = "") -> Table:
    """Return a table of rows of cells and texts."""
    return Table(title, names, [[c if isinstance(c, Cell) else Cell(c) for c in row] for row in rows], note)


def columns_table(title: str, columns: Columns) -> Table:
    """Return a table of columns."""
    return Table(title, [name for name, _ in columns], list(zip(*(cells for _, cells in columns), strict=True)))


def numbers(values: Sequence[float | None], mode: str | None = None, show: Callable = short) -> list[Cell]:
    """Return cells of numbers, a dash for None; ``mode`` is ``min`` or ``max``, whichever is best."""
    known = [value for value in values if value is not None and value == value]
    best = (min if mode == "min" else max)(known) if mode and len(set(known)) > 1 else None
    return [Cell("-") if v is None else Cell(show(v), v, v == best) for v in values]


def setting(shown: str) -> Cell:
    """Return the cell of a setting, with its number if it is one."""
    try:
        return Cell(shown, float(shown))
    except ValueError:
        return Cell(shown)


def curves(groups: Sequence[Sequence[Run]], metrics: Sequence[str]) -> list[tuple[str, bytes, str, str]]:
    """Return a picture per metric with a line for each run; repeats have the same colour."""
    runs = [(number, group_name(group), run.log.series) for number, group in enumerate(groups) for run in group]
    pictures = []
    for metric in metrics:
        lines = [(number, name, series[metric]) for number, name, series in runs if metric in series]
        pictures.append((metric, draw(lines, log=direction(metric) != "max"), ".svg", ""))
    return pictures


def key_metrics(runs: Sequence[Run]) -> list[str]:
    """Return the monitored metric and the most important validation metrics, where they were logged."""
    logged = {name for run in runs for name in run.log.series}
    frechet = sorted(name for name in logged if name.startswith("val/rfid"))
    names = dict.fromkeys([first_known(runs).monitor, *frechet, *(f"val/{name}" for name in KEY_METRICS.split())])
    return [name for name in names if name in logged][:SHOWN]


def compared(runs: Sequence[Run], metric: str) -> str:
    """Return the name of the value by which runs are compared."""
    if metric.startswith("test/"):
        return metric
    return f"{'best' if metric == first_known(runs).monitor else 'last'} {metric}"


def group_name(group: Sequence[Run]) -> str:
    """Return the common part of the names of repeats: ``small`` of ``small_seed0`` and ``small_seed1``."""
    if len(group) == 1:
        return group[0].name
    common = os.path.commonprefix([run.name for run in group])  # noqa: RUF071  # names, not paths
    return common.removesuffix("_seed").rstrip("_-. ") or group[0].name
