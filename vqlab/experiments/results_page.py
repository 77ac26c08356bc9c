"""Results page of an experiment file: how it was run, answers to its questions, and its rows with means over seeds."""

import re
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from markupsafe import Markup
from scipy.stats import spearmanr

from vqlab.errors import UserError
from vqlab.experiments.checkpoint_header import read_header
from vqlab.experiments.experiment import Experiment, Question
from vqlab.experiments.factors import value_of
from vqlab.experiments.report import (
    Cell,
    Pictures,
    Section,
    Table,
    columns_table,
    compared,
    curves,
    key_metrics,
    known_values,
    mean_cells,
    numbers,
    optional,
    table_of,
)
from vqlab.experiments.run_state import LAST
from vqlab.experiments.runs import Run
from vqlab.experiments.text import plural, printable, short

Groups = Mapping[str, Sequence[Run]]  # repeats by the name of their row


def results_page(experiment: Experiment, runs: Sequence[Run]) -> list[Section]:
    """Return the sections of the page from those of ``runs`` that are rows of ``experiment``.

    Raises:
        UserError: If there are none.
    """
    mine = [run for run in runs if run.sweep.experiment == experiment.path.stem]
    if not mine:
        raise UserError(f"no row of {experiment.path} is in these folders: vqlab sweep {experiment.path} runs them")
    groups = defaultdict(list)
    for run in mine:
        run.name = run.folder.name
        groups[re.sub(r"_seed\d+$", "", run.name)].append(run)
    facts = table_of("", ("", ""), facts_of(experiment, mine), note=about(experiment.path))
    answers = [Section(question.ask, " ".join(answer(question, groups)), []) for question in experiment.questions]
    monitor = Pictures("", curves(list(groups.values()), [mine[0].monitor]))
    return [Section("", "", [facts]), *answers, Section("Rows", "", [rows_table(experiment, groups), monitor])]


def about(path: Path) -> str:
    """Return the comment at the beginning of an experiment file, without its commands."""
    comment = path.read_text().split("\nbase:")[0].splitlines()
    return " ".join(line.removeprefix("# ") for line in comment if re.match(r"# \S", line))


def facts_of(experiment: Experiment, runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    """Yield command, budget, data, seeds, machine, code and date."""
    finished = sum(run.status == "finished" for run in runs)
    sweep, known = runs[-1].sweep, runs[0]
    made_by = [read_made_by(run.folder / LAST) for run in runs]
    data = [f"{n.removeprefix('data.')}={value_of(known, n)}" for n in known.settings if n.startswith("data.path")]
    seeds = dict.fromkeys(value_of(run, "seed_everything") for run in runs)
    hours = timedelta(seconds=round(sum(run.seconds or 0 for run in runs)))
    # As code, because Markdown turns -- into a dash.
    yield "command", Markup("`" + printable(sweep.command).replace("`", "'").replace("|", "\\|") + "`")
    if sweep.scale != 1:
        scaled = f"all numbers of steps are {sweep.scale:g} of those of the file"
        yield "budget", f"{sweep.budget}: {scaled}" if sweep.budget else scaled
    yield "data", " ".join([value_of(known, "data"), *data])
    yield "runs", f"{finished} of {len(experiment.rows)} finished, {plural(len(seeds), 'seed')}, {hours} in all"
    for name, key in (("machine", "machine"), ("code", "revision")):
        yield name, ", ".join(dict.fromkeys(text for facts in made_by if (text := facts.get(key)))) or "not recorded"
    yield "recorded", runs[0].started[:10]


def read_made_by(checkpoint: Path) -> Mapping[str, str]:
    """Return versions and machine from a checkpoint, empty if it is missing or damaged."""
    with suppress(UserError):
        found = read_header(checkpoint).get("made_by")
        return found if isinstance(found, dict) else {}
    return {}


def answer(question: Question, groups: Groups) -> Iterator[str]:
    """Yield sentences that compare the rows of ``question``."""
    rows = question.rows or tuple(groups)
    if missing := [name for name in rows if name not in groups]:
        yield f"Not run: {', '.join(missing)}."
    known = {name: groups[name] for name in rows if name in groups}
    if not known:
        return
    runs = [run for group in known.values() for run in group]
    metric = logged_name(question.metric, runs) if question.metric else runs[0].monitor
    if question.against:
        yield correlation(runs, metric, question.against)
        return
    values = {name: known_values(group, metric) for name, group in known.items()}
    means = {name: statistics.fmean(found) for name, found in values.items() if found}
    if not means:
        yield f"No run has logged {metric}."
        return
    name, mode = compared(runs, metric), runs[0].mode(metric)
    order = sorted(means, key=means.__getitem__, reverse=mode == "max")
    texts = [f"{row} {short(means[row], 3)}" for row in order]
    if mode is None or len(means) == 1:
        yield f"{name}: {', '.join(texts)}."
        return
    yield f"{order[0]} is best. {name[0].upper() + name[1:]}: {', '.join(texts)}."
    lead = abs(means[order[0]] - means[order[1]])
    spread = [statistics.stdev(values[row]) for row in order[:2] if len(values[row]) > 1]
    if not spread:
        yield f"The lead over {order[1]} is {short(lead, 2)}, of one seed."
    else:
        size = "more" if lead > max(spread) else "not more"
        deviation = f"the standard deviation over seeds, {short(max(spread), 2)}"
        yield f"The lead over {order[1]}, {short(lead, 2)}, is {size} than {deviation}."


def logged_name(metric: str, runs: Sequence[Run]) -> str:
    """Return the metric that the runs have logged: ``metric``, or one that begins so, such as ``val/rfid_vgg``."""
    logged = {name for run in runs for name in (*run.log.series, *run.tested)}
    return metric if metric in logged else min((name for name in logged if name.startswith(metric)), default=metric)


def correlation(runs: Sequence[Run], metric: str, other: str) -> str:
    """Return a sentence with the rank correlation of two metrics over runs."""
    pairs = [(run.value(metric), run.value(other)) for run in runs]
    known = [pair for pair in pairs if None not in pair]
    if len(known) < 3:
        return f"Fewer than three runs have logged {metric} and {other}."
    rank = float(spearmanr(known).statistic)
    strength = "no" if abs(rank) < 0.3 else "a weak" if abs(rank) < 0.6 else "a strong"
    over = f"over {len(known)} runs the rank correlation of {metric} and {other} is {rank:+.2f}"
    return f"There is {strength} relation: {over}."


def rows_table(experiment: Experiment, groups: Groups) -> Table:
    """Return notes and metrics of each row; test metrics take the place of those of the validation."""
    repeats = list(groups.values())
    runs = [run for group in repeats for run in group]
    tested = {name for run in runs for name in run.tested}
    named = [name for question in experiment.questions for name in (question.metric, question.against) if name]
    asked = [logged_name(name, runs) for name in named]
    in_test = [name.replace("val/", "test/", 1) for name in key_metrics(runs)[1:]]
    others = [test if test in tested else test.replace("test/", "val/", 1) for test in in_test]
    metrics = dict.fromkeys([runs[0].monitor, *asked, *others])
    columns = [("row", [Cell(name) for name in groups])]
    if any(run.note for run in runs):
        columns.append(("note", [Cell(group[0].note) for group in repeats]))
    columns += [(compared(runs, metric), mean_cells(repeats, metric)) for metric in metrics]
    columns.append(("steps", numbers([group[0].log.steps for group in repeats], show="{:,}".format)))
    minutes = [statistics.fmean(run.seconds or 0 for run in group) / 60 for group in repeats]
    columns.append(("minutes", numbers(minutes, show="{:.1f}".format)))
    events = [dict.fromkeys(event.replace("_", " ") for run in group for event in run.events) for group in repeats]
    columns += optional("health", [", ".join(found) for found in events])
    if any(run.status != "finished" for run in runs):
        columns.append(("status", [Cell(", ".join(dict.fromkeys(run.status for run in group))) for group in repeats]))
    return columns_table("", columns)
