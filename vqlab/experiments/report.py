"""What a report says of a set of runs, before it is a page."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vqlab.experiments.curves import Line
from vqlab.experiments.factors import differing, repeats, value_of
from vqlab.experiments.runs import Run, Verdict, shortest_names
from vqlab.experiments.settings import HARMLESS
from vqlab.experiments.summary import summary
from vqlab.experiments.tables import Table, figures_table, group_name, runs_table, seeds_table, telling_metrics


@dataclass(frozen=True)
class Section:
    """All that a report says of the runs of one model.

    Attributes:
        title: The model.
        runs: The runs.
        summary: Sentences.
        table: What differed, what it cost, what came out.
        over_seeds: Mean and standard deviation over repeats; None where there are none.
        figures: Last and best of every metric of validation and test.
        verdicts: Event -> the runs that have it.
        curves: Telling metric -> a line per run.
        more_curves: The same of all other metrics.
        pictures: Kind -> (run, steps, file) of each run's last picture.
        shared: The settings that all runs have in common.
    """

    title: str
    runs: list[Run]
    summary: list[str]
    table: Table
    over_seeds: Table | None
    figures: Table
    verdicts: dict[str, list[tuple[Run, Verdict]]]
    curves: dict[str, list[Line]]
    more_curves: dict[str, list[Line]]
    pictures: dict[str, list[tuple[Run, int, Path]]]
    shared: dict[str, str]


def write_sections(runs: Sequence[Run]) -> list[Section]:
    """Return a section per model."""
    models: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        models[run.model.lower()].append(run)
    return [write_section(of_model) for of_model in models.values()]


def write_section(runs: list[Run]) -> Section:
    """Return what there is to say of the runs of one model; names them."""
    for run, name in zip(runs, shortest_names([run.folder for run in runs]), strict=True):
        run.name = name
    known = [run for run in runs if run.settings]
    groups, metrics = repeats(runs), telling_metrics(runs)
    verdicts: dict[str, list[tuple[Run, Verdict]]] = defaultdict(list)
    pictures: dict[str, list[tuple[Run, int, Path]]] = defaultdict(list)
    for run in runs:
        for verdict in run.verdicts:
            verdicts[verdict.event].append((run, verdict))
        for kind, (step, path) in run.pictures.items():
            pictures[kind].append((run, step, path))
    title = next((run.model for run in known), runs[0].model)
    logged = sorted({name for run in runs for name in run.log.series})
    telling = [*metrics, *({"train/loss"} & {*logged} - {*metrics})]
    return Section(
        title=title,
        runs=runs,
        summary=summary(title, runs, groups, metrics, verdicts),
        table=runs_table(runs, metrics),
        over_seeds=seeds_table(groups, metrics) if any(len(group) > 1 for group in groups) else None,
        figures=figures_table(runs),
        verdicts=dict(verdicts),
        curves=curves_of(groups, telling),
        more_curves=curves_of(groups, [name for name in logged if name not in telling]),
        pictures=dict(sorted(pictures.items(), reverse=True)),  # step_*.png first
        shared=shared_settings(known),
    )


def curves_of(groups: Sequence[Sequence[Run]], metrics: Sequence[str]) -> dict[str, list[Line]]:
    """Return for each metric the lines of the runs that have it; repeats share a colour."""
    return {
        metric: [
            Line(run.name, group_name(group), colour, run.log.series[metric])
            for colour, group in enumerate(groups)
            for run in group
            if metric in run.log.series
        ]
        for metric in metrics
    }


def shared_settings(runs: Sequence[Run]) -> dict[str, str]:
    """Return the settings that are the same in all runs, those left out that change no figures."""
    varied = {*differing(runs)}
    names = [name for name in runs[0].settings if not name.startswith(HARMLESS)] if runs else []
    same = [name for name in names if name not in varied and len({value_of(run, name) for run in runs}) == 1]
    return {name: value_of(runs[0], name) for name in same}
