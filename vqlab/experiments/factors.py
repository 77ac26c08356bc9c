"""Which settings of a set of runs differ, and their effects on a metric."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

from vqlab.experiments.experiment import SEEDED, short_names
from vqlab.experiments.runs import Run, natural
from vqlab.experiments.settings import HARMLESS, as_text

LEFT_OUT = (*HARMLESS, "ckpt_path", "weights_only", "trainer.logger", "trainer.default_root_dir")
NAMED = 2  # settings that the label of a factor names


class Effect(NamedTuple):
    """Effect of one factor on a metric."""

    factor: str  # short names of the settings, which always differ together
    low: str = "-"  # the two levels with the largest mean difference
    high: str = "-"
    differences: Sequence[float] = ()  # of each pair of runs that differ in nothing else


def differing(runs: Sequence[Run]) -> list[str]:
    """Return the settings that differ, except seeds and settings without influence on metrics.

    A setting that some runs do not have is left out where that follows from a class that differs.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    found: set[str] = set()
    for name in sorted(names, key=lambda name: name.count(".")):  # a class before its options
        values = {as_text(run.settings[name]) for run in runs if name in run.settings}
        missing = any(name not in run.settings for run in runs if run.settings)
        follows = any(name.startswith(f"{other}.") for other in found)
        is_left_out = name.startswith(LEFT_OUT) or name in SEEDED
        if not is_left_out and (len(values) > 1 or (missing and not follows)):
            found.add(name)
    return [name for name in names if name in found]


def factors(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return label -> level of each run; settings that always differ together are one factor."""
    short = short_names(differing(runs))
    together: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name in short:
        values = [value_of(run, name) for run in runs]
        together[tuple(values.index(value) for value in values)].append(name)
    found = {}
    for group in together.values():
        label = " and ".join(short[name] for name in group[:NAMED])
        label += f" and {len(group) - NAMED} more" if len(group) > NAMED else ""
        found[label] = [", ".join(value_of(run, name) for name in group[:NAMED]) for run in runs]
    return found


def repeats(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs in groups of equal settings, equal steps and different seeds.

    A run with unknown settings is its own group, and so is a second one with the same seed.
    """
    names, seen = differing(runs), Counter[tuple]()
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run in runs:
        setting = (*(value_of(run, name) for name in names), run.log.steps) if run.settings else (run.folder,)
        groups[setting, seen[setting, run.seeds]].append(run)
        seen[setting, run.seeds] += 1
    return list(groups.values())


def effects(runs: Sequence[Run], value: Callable[[Run], float | None]) -> list[Effect]:
    """Return the effect of each factor on a metric.

    Two runs are a pair for a factor if they agree in all other factors and in the seed, and, unless both are finished,
    in the steps done.
    """
    runs = [run for run in runs if run.settings]
    all_factors, found = factors(runs), []
    for factor, levels in all_factors.items():
        others = [other for label, other in all_factors.items() if label != factor]
        matched: dict[tuple, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for place, run in enumerate(runs):
            if (result := value(run)) is not None and math.isfinite(result):
                done = None if run.status == "finished" else run.log.steps
                matched[done, run.seeds, *(other[place] for other in others)][levels[place]].append(result)
        steps = [Effect(factor)]
        for low, high in combinations(sorted(set(levels), key=natural), 2):
            alike = [match for match in matched.values() if low in match and high in match]
            differences = [statistics.fmean(match[high]) - statistics.fmean(match[low]) for match in alike]
            steps += [Effect(factor, low, high, differences)] if differences else []
        found.append(max(steps, key=lambda step: abs(statistics.fmean(step.differences or [0]))))
    return found


def value_of(run: Run, name: str) -> str:
    """Return the text of a setting: of its first option if it is a group of options, ``-`` if the run has none."""
    if name in run.settings:
        return as_text(run.settings[name])
    return next((as_text(value) for other, value in run.settings.items() if other.startswith(f"{name}.")), "-")
