"""A paragraph on a set of runs: what was run, what was best, which factor moved which metric, what went wrong."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from operator import itemgetter

from vqlab.experiments.experiment import short_names
from vqlab.experiments.factors import Effect, effects
from vqlab.experiments.runs import Run, Verdict, judge
from vqlab.experiments.tables import short

TOLD = 3  # of how many metrics, and of how many effects that rest on one pair of runs


def summary(
    title: str,
    runs: Sequence[Run],
    groups: Sequence[Sequence[Run]],
    metrics: Sequence[str],
    verdicts: dict[str, list[tuple[Run, Verdict]]],
) -> list[str]:
    """Return sentences: what was run, what was best, which factor moved which metric, what went wrong."""
    sentences = [what_was_run(title, runs, groups), *what_was_best(runs, metrics)]
    for metric in metrics[:TOLD]:
        sentences += what_moved(metric, runs, in_full=metric == metrics[0])
    if verdicts:
        events = [f"{event.replace('_', ' ')} in {plural(len(found), 'run')}" for event, found in verdicts.items()]
        sentences.append(f"Health: {', '.join(events)}.")
    return sentences


def what_was_run(title: str, runs: Sequence[Run], groups: Sequence[Sequence[Run]]) -> str:
    """Return how many runs there are, and how they ended."""
    counts = Counter(run.status for run in runs).most_common()
    states = ", ".join(f"{count} {status}" for status, count in counts)
    if len(counts) == 1:
        states = counts[0][0] if len(runs) == 1 else f"all {counts[0][0]}"
    settings = [group for group in groups if group[0].settings]
    repeated = f", {plural(len(settings), 'setting')} with repeats" if any(len(group) > 1 for group in settings) else ""
    return f"{plural(len(runs), 'run')} of {title}{repeated}: {states}."


def what_was_best(runs: Sequence[Run], metrics: Sequence[str]) -> Iterator[str]:
    """Yield the best of the monitored metric, and of a single run its last figures."""
    monitor = judge(runs).monitor
    bests = [
        (figure.best, figure.best_step, run) for run in runs if (figure := run.figure(monitor)) and figure.best_step
    ]
    if bests:
        best, step, run = (min if judge(runs).mode(monitor) == "min" else max)(bests, key=itemgetter(0))
        yield f"Best {monitor}: {short(best)} at step {step:,}{f', by {run.name}' if len(runs) > 1 else ''}."
    if len(runs) == 1:
        last = [f"{metric} {short(figure.last)}" for metric in metrics if (figure := runs[0].figure(metric))]
        yield from [f"Last: {', '.join(last)}."] if last else []


def what_moved(metric: str, runs: Sequence[Run], in_full: bool) -> Iterator[str]:
    """Yield which factors moved a metric; ``in_full`` also what rests on single pairs, and what cannot be told."""
    name = f"{'best' if metric == judge(runs).monitor else 'last'} {metric}"
    found, untold = effects(runs, partial(Run.value, metric=metric))
    clear = [tell(effect) for effect in found if effect.is_clear]
    unclear = [f"{e.factor.label} ({change(e)})" for e in found if not e.is_clear and e.pairs > 1]
    single = [tell(effect) for effect in found if effect.pairs == 1][:TOLD]
    if clear:
        yield f"The {name} was moved by {', and by '.join(clear)}."
    if unclear:
        yield f"The {name} was not clearly moved by {', nor by '.join(unclear)}."
    if single and in_full:
        yield f"In single pairs of runs, perhaps by chance, the {name} moved with {', and with '.join(single)}."
    if untold and in_full:
        names = list(short_names([name for factor in untold for name in factor.names]).values())
        more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
        yield f"Nothing can be told of {', '.join(names[:TOLD])}{more}: no two runs differ in one of these alone."


def tell(effect: Effect) -> str:
    """Return an effect in words: what was changed, the means on both sides, and their difference."""
    step = effect.factor.label
    if len(effect.factor.names) <= 2:
        step += f" ({effect.low} to {effect.high})"
    return f"{step} from {short(effect.mean_low)} to {short(effect.mean_high)} ({change(effect)})"


def change(effect: Effect) -> str:
    """Return the difference with its spread and the number of pairs it is from."""
    difference = f"{'+' if effect.difference > 0 else ''}{short(effect.difference, 3)}"
    spread = "" if effect.spread is None else f" ± {short(effect.spread, 2)}"
    return f"{difference}{spread}, {plural(effect.pairs, 'pair')}"


def plural(count: int, thing: str) -> str:
    """Return ``1 run`` or ``2 runs``."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
