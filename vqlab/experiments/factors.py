"""Which settings of a set of runs differ, and their effects on a metric."""

import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from vqlab.experiments.experiment import SEEDED, short_names
from vqlab.experiments.runs import Run
from vqlab.experiments.settings import HARMLESS

LEFT_OUT = (*HARMLESS, "ckpt_path", "weights_only", "trainer.logger", "trainer.default_root_dir")
NAMED = 2  # settings that the label of a factor names
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Effect:
    """Effect of one factor on a metric, over pairs of runs that differ in nothing else.

    Attributes:
        factor: Short names of the settings, which always differ together.
        pairs: Number of pairs; with 0, the other values are unknown.
        low, high: The two levels with the largest mean difference.
        mean_low, mean_high, difference: Means of the metric and of its difference over the pairs.
        spread: Standard deviation of the differences; None for a single pair.
        p: Two-sided p value of the paired t-test, times the number of pairs of levels (Bonferroni).
    """

    factor: str
    pairs: int = 0
    low: str = "-"
    high: str = "-"
    mean_low: float | None = None
    mean_high: float | None = None
    difference: float | None = None
    spread: float | None = None
    p: float | None = None

    @property
    def is_significant(self) -> bool:
        """Whether so large a difference is unlikely (below 5 %) by chance."""
        return self.p is not None and self.p < SIGNIFICANT


def differing(runs: Sequence[Run]) -> list[str]:
    """Return the settings that differ, except seeds and settings without influence on metrics.

    A setting that some runs do not have is left out where that follows from a class that differs.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    found: set[str] = set()
    for name in sorted(names, key=lambda name: name.count(".")):  # a class before its options
        values = {text(run.settings[name]) for run in runs if name in run.settings}
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
    """Return the effect of each factor on a metric, the largest first.

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
        found.append(largest_step(factor, sorted(set(levels), key=order), list(matched.values())))
    return sorted(found, key=lambda effect: -abs(effect.difference or 0.0))


def largest_step(factor: str, levels: Sequence[str], matched: Sequence[dict[str, list[float]]]) -> Effect:
    """Return the largest mean difference between two levels; ``matched`` are runs that differ in this factor alone."""
    steps = []
    for low, high in combinations(levels, 2):
        if pairs := [(statistics.fmean(m[low]), statistics.fmean(m[high])) for m in matched if low in m and high in m]:
            mean_low, mean_high = (statistics.fmean(side) for side in zip(*pairs, strict=True))
            steps.append((abs(mean_high - mean_low), low, high, mean_low, mean_high, pairs))
    if not steps:
        return Effect(factor)
    _, low, high, mean_low, mean_high, pairs = max(steps)
    difference, spread, p = mean_high - mean_low, None, None
    if len(pairs) > 1:
        spread = statistics.stdev(b - a for a, b in pairs)
        p = min(1.0, len(steps) * p_value(difference, spread, len(pairs)))
    return Effect(factor, len(pairs), low, high, mean_low, mean_high, difference, spread, p)


def p_value(difference: float, spread: float, pairs: int) -> float:
    """Return the two-sided p value of the paired t-test."""
    from scipy.special import stdtr  # Student's t distribution; scipy.stats takes seconds to import

    if spread == 0:
        return float(difference == 0)
    return 2 * float(stdtr(pairs - 1, -abs(difference) / spread * math.sqrt(pairs)))


def value_of(run: Run, name: str) -> str:
    """Return the text of a setting: of its first option if it is a group of options, ``-`` if the run has none."""
    if name in run.settings:
        return text(run.settings[name])
    return next((text(value) for other, value in run.settings.items() if other.startswith(f"{name}.")), "-")


def text(value: Any) -> str:
    """Return a setting as it is typed.

    Example:
        >>> text(1e-5), text(16.0), text(None), text([8, 5]), text("relu"), text(True)
        ('1e-05', '16', 'null', '[8, 5]', 'relu', 'true')
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value, default=str)


def order(level: str) -> tuple:
    """Return a key that sorts levels by number where they are numbers."""
    try:
        return (0, float(level), level)
    except ValueError:
        return (1, 0.0, level)
