"""Which settings of a set of runs differ, and their effects on a metric."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from statistics import fmean
from typing import NamedTuple

from vqlab.experiments.experiment import SEEDED, short_names
from vqlab.experiments.runs import Run, natural
from vqlab.experiments.settings import HARMLESS, as_text

LEFT_OUT = (*HARMLESS, *SEEDED, "ckpt_path", "weights_only", "trainer.logger", "trainer.default_root_dir")
NAMED = 2  # settings that the label of a factor names


class Effect(NamedTuple):
    """Effect of one factor on a metric."""

    factor: str  # short names of settings that always differ together
    low: str = "-"  # the two levels with the largest mean difference
    high: str = "-"
    differences: Sequence[float] = ()  # over the pairs of runs that differ in this factor only


def differing(runs: Sequence[Run]) -> list[str]:
    """Return the settings that differ and influence metrics, without arguments of a class that only some runs use."""
    names = dict.fromkeys(name for run in runs for name in run.settings if not name.startswith(LEFT_OUT))
    found: set[str] = set()
    for name in sorted(names, key=lambda name: name.count(".")):  # a class before its options
        values = {as_text(run.settings[name]) for run in runs if name in run.settings}
        missing = any(name not in run.settings for run in runs if run.settings)
        follows = any(name.startswith(f"{other}.") for other in found)
        if len(values) > 1 or (missing and not follows):
            found.add(name)
    return in_groups(name for name in names if name in found)


def in_groups(names: Iterable[str]) -> list[str]:
    """Sort settings: of the model, of the data, all others, of the Trainer."""
    place = {"model": 0, "data": 1, "trainer": 3}
    return sorted(names, key=lambda name: place.get(name.partition(".")[0], 2))


def factors(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return ``{label: level of each run}``; settings that always differ together are one factor."""
    short = short_names(differing(runs))
    together: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name in short:
        values = [value_of(run, name) for run in runs]
        together[tuple(values.index(value) for value in values)].append(name)
    found = {}
    for group in together.values():
        more = [f"{len(group) - NAMED} more"] if len(group) > NAMED else []
        label = " and ".join([*(short[name] for name in group[:NAMED]), *more])
        found[label] = [", ".join(value_of(run, name) for name in group[:NAMED]) for run in runs]
    return found


def repeats(runs: Sequence[Run]) -> list[list[Run]]:
    """Return groups of runs with equal settings, equal steps and different seeds; a run without a config is alone."""
    names, seen = differing(runs), Counter[tuple]()
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run in runs:
        setting = (*(value_of(run, name) for name in names), run.log.steps) if run.settings else (run.folder,)
        groups[setting, seen[setting, run.seeds]].append(run)
        seen[setting, run.seeds] += 1
    return list(groups.values())


def effects(runs: Sequence[Run], metric: str) -> list[Effect]:
    """Return the effect of each factor, over pairs of runs of equal other factors, seed and, if not finished, steps."""
    runs = [run for run in runs if run.settings]
    results = [run.value(metric) for run in runs]
    all_factors, found = factors(runs), []
    for factor, levels in all_factors.items():
        others = [other for label, other in all_factors.items() if label != factor]
        matched: dict[tuple, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for i, (run, result) in enumerate(zip(runs, results, strict=True)):
            if result is not None and math.isfinite(result):
                steps = None if run.status == "finished" else run.log.steps
                matched[steps, run.seeds, *(other[i] for other in others)][levels[i]].append(result)
        pairs = []
        for low, high in combinations(sorted(set(levels), key=natural), 2):
            means = [(fmean(match[low]), fmean(match[high])) for match in matched.values() if {low, high} <= {*match}]
            pairs += [Effect(factor, low, high, [b - a for a, b in means])] if means else []
        found.append(max(pairs, key=lambda effect: abs(fmean(effect.differences)), default=Effect(factor)))
    return found


def value_of(run: Run, name: str) -> str:
    """Return the text of a setting; for a group of options, the text of its first one; ``-`` if the run has none."""
    if name in run.settings:
        return as_text(run.settings[name])
    return next((as_text(value) for other, value in run.settings.items() if other.startswith(f"{name}.")), "-")
