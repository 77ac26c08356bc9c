"""Content of a report on a set of runs, as a list of blocks for HTML or Markdown."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from vqlab.experiments.curves import Line
from vqlab.experiments.experiment import shortest_ends
from vqlab.experiments.factors import differing, effects, repeats, value_of
from vqlab.experiments.runs import Run, first_known
from vqlab.experiments.settings import HARMLESS
from vqlab.experiments.tables import (
    Table,
    all_metrics_table,
    compared,
    effects_table,
    events_table,
    group_name,
    plural,
    runs_table,
    seeds_table,
    short,
    signed,
    telling_metrics,
)

KINDS = {"step": "Samples", "codes": "Use of the codes", "confusion": "Confusion"}
COMPARED = 3  # metrics whose effects are reported


@dataclass(frozen=True)
class Heading:
    """A headline."""

    text: str
    level: int = 3


@dataclass(frozen=True)
class Curves:
    """Pictures of metrics: metric -> a line per run."""

    lines: Mapping[str, Sequence[Line]]


@dataclass(frozen=True)
class Pictures:
    """The last picture of each run: (run, steps, file)."""

    files: Sequence[tuple[Run, int, Path]]


@dataclass(frozen=True)
class Folded:
    """A block that the reader opens."""

    title: str
    content: "Table | Curves"


Block = Heading | str | Table | Curves | Pictures | Folded


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
    found = [(run, problem) for run in runs for problem in run.problems]
    found += [(run, f"failed: {run.error}") for run in runs if run.status == "failed"]
    if found:
        yield Heading("Damaged or failed")
        yield Table.of(("run", "problem"), [(str(run.folder), problem) for run, problem in found])


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
    if any(run.events for run in runs):
        yield Heading("Health")
        yield events_table(runs)
    logged = sorted({name for run in runs for name in run.log.series})
    telling = [*metrics, *({"train/loss"} & {*logged} - {*metrics})]
    if telling:
        yield Heading("Curves")
        yield "By steps done; smoothed, over the raw values."
        yield curves(groups, telling)
    if others := [name for name in logged if name not in telling]:
        yield Folded(plural(len(others), "more curve"), curves(groups, others))
    kinds = sorted({kind for run in runs for kind in run.pictures}, reverse=True)  # step_*.png first
    for kind in kinds:
        yield Heading(KINDS.get(kind, kind))
        yield Pictures([(run, *run.pictures[kind]) for run in runs if kind in run.pictures])
    yield Folded("All metrics", all_metrics_table(runs))
    if shared := shared_settings([run for run in runs if run.settings]):
        yield Folded(f"{plural(len(shared), 'setting')} in common", Table.of(("setting", "value"), [*shared.items()]))


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


def curves(groups: Sequence[Sequence[Run]], metrics: Sequence[str]) -> Curves:
    """Return a line for each run that has a metric; repeats share a colour."""
    return Curves(
        {
            metric: [
                Line(run.name, group_name(group), number, run.log.series[metric])
                for number, group in enumerate(groups)
                for run in group
                if metric in run.log.series
            ]
            for metric in metrics
        }
    )


def shared_settings(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the settings that are the same in all runs, except those without influence on metrics."""
    varied = {*differing(runs)}
    names = [name for name in runs[0].settings if not name.startswith(HARMLESS)] if runs else []
    same = [name for name in names if name not in varied and len({value_of(run, name) for run in runs}) == 1]
    return {name: value_of(runs[0], name) for name in same}
