"""A paragraph on a set of runs: what was run, what was best, which factor moved which metric, what went wrong."""

from collections.abc import Sequence
from functools import partial

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
    counts = [
        (status, sum(run.status == status for run in runs))
        for status in ("finished", "running", "failed", "unfinished")
    ]
    states = "finished" if len(runs) == 1 else "all finished"
    states = states if counts[0][1] == len(runs) else ", ".join(f"{n} {status}" for status, n in counts if n)
    settings = [group for group in groups if group[0].settings]
    repeated = f", {plural(len(settings), 'setting')} with repeats" if any(len(group) > 1 for group in settings) else ""
    sentences = [f"{plural(len(runs), 'run')} of {title}{repeated}: {states}."]
    monitor = judge(runs).monitor
    mode = judge(runs).mode(monitor)
    judged = [(run, figure) for run in runs if (figure := run.figure(monitor)) and figure.best is not None]
    if judged:
        run, figure = (min if mode == "min" else max)(judged, key=lambda pair: pair[1].best or 0.0)
        by = f", by {run.name}" if len(runs) > 1 else ""
        sentences.append(f"Best {monitor}: {short(figure.best)} at step {figure.best_step:,}{by}.")
    if len(runs) == 1:
        last = [f"{metric} {short(figure.last)}" for metric in metrics if (figure := runs[0].figure(metric))]
        sentences += [f"Last: {', '.join(last)}."] if last else []
    for metric in metrics[:TOLD]:
        found, untold = effects(runs, partial(Run.value, metric=metric))
        name = f"{'Best' if metric == monitor else 'Last'} {metric}"
        clear = [tell(effect) for effect in found if effect.is_clear]
        unclear = [f"{e.factor.label} ({change(e)})" for e in found if not e.is_clear and e.pairs > 1]
        single = [tell(effect) for effect in found if effect.pairs == 1][:TOLD]
        if clear:
            sentences.append(f"{name} was moved by {', and by '.join(clear)}.")
        if unclear:
            sentences.append(f"{name} was not clearly moved by {', nor by '.join(unclear)}.")
        if single:
            sentences.append(
                f"{name} differed in single pairs of runs, which may be chance, by {', and by '.join(single)}."
            )
    if metrics and untold and len(runs) > 1:
        names = ", ".join(factor.label for factor in untold)
        sentences.append(f"No two runs differ in nothing but {names}, so what that alone does is not known.")
    if verdicts:
        told = ", ".join(
            f"{event.replace('_', ' ')} in {plural(len(found), 'run')}" for event, found in verdicts.items()
        )
        sentences.append(f"Health: {told}.")
    return sentences


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
