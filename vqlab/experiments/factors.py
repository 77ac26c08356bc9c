"""Which settings of a set of runs differ, and which of these moved a metric."""

import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vqlab.experiments.experiment import SEEDED, short_names
from vqlab.experiments.runs import Run
from vqlab.experiments.settings import HARMLESS

LEAVE_OUT = (*HARMLESS, "ckpt_path", "weights_only", "trainer.logger", "trainer.default_root_dir")
MANY = 2  # settings that the label of a factor names
CHANCE = 0.05  # how often a step that does nothing may be called clear


@dataclass(frozen=True)
class Factor:
    """Settings that differ together.

    Attributes:
        names: The settings, one of those that have the same values.
        label: Their short names.
        levels: For each run the text of their values.
    """

    names: tuple[str, ...]
    label: str
    levels: tuple[str, ...]


@dataclass(frozen=True)
class Effect:
    """What a step of one factor did to a metric, over pairs of runs that differ in nothing else.

    Attributes:
        factor: The factor.
        low, high: The levels.
        mean_low, mean_high: Means of the metric over the pairs.
        spread: Standard deviation of the differences; None for a single pair.
        pairs: How many pairs.
        tried: Of how many steps of the factor this is the largest.
    """

    factor: Factor
    low: str
    high: str
    mean_low: float
    mean_high: float
    spread: float | None
    pairs: int
    tried: int = 1

    @property
    def difference(self) -> float:
        """Mean difference."""
        return self.mean_high - self.mean_low

    @property
    def is_clear(self) -> bool:
        """Whether chance would seldom (5 %) give so large a mean difference: Student's t of the pairs, Bonferroni's."""
        if not self.spread:
            return self.spread == 0 and self.difference != 0
        t = abs(self.difference) / self.spread * math.sqrt(self.pairs)
        return student_p(t, self.pairs - 1) * self.tried < CHANCE


def differing(runs: Sequence[Run]) -> list[str]:
    """Return the settings that differ, seeds and what changes no figures apart.

    What only some runs have is left out where that follows from a class that differs.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    found: set[str] = set()
    for name in sorted(names, key=lambda name: name.count(".")):  # a class before its options
        if name.startswith(LEAVE_OUT) or name in SEEDED:
            continue
        values = {text(run.settings[name]) for run in runs if name in run.settings}
        missing = any(name not in run.settings for run in runs if run.settings)
        follows = any(name.startswith(f"{other}.") for other in found)
        if len(values) > 1 or (missing and not follows):
            found.add(name)
    return [name for name in names if name in found]


def columns(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return the settings that differ, each with those that have the same values in all runs, itself the first."""
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in differing(runs):
        alike[tuple(value_of(run, name) for run in runs)].append(name)
    return {names[0]: names for names in alike.values()}


def factors(runs: Sequence[Run]) -> list[Factor]:
    """Return what differs, settings that always differ together as one factor."""
    found, short = [], short_names(differing(runs))
    together: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name in columns(runs):
        values = [value_of(run, name) for run in runs]
        together[tuple(values.index(value) for value in values)].append(name)
    for group in together.values():
        levels = tuple(", ".join(value_of(run, name) for name in group) for run in runs)
        label = " and ".join(short[name] for name in group[:MANY])
        label += f" and {len(group) - MANY} more" if len(group) > MANY else ""
        found.append(Factor(tuple(group), label, levels))
    return found


def repeats(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs in groups of equal settings, equal steps and different seeds.

    One whose settings are not known is a group by itself, and so is a second one of the same seed.
    """
    names, seen = differing(runs), Counter[tuple]()
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run in runs:
        setting = (*(value_of(run, name) for name in names), run.log.steps) if run.settings else (run.folder,)
        groups[setting, seen[setting, run.seeds]].append(run)
        seen[setting, run.seeds] += 1
    return list(groups.values())


def effects(runs: Sequence[Run], value: Callable[[Run], float | None]) -> tuple[list[Effect], list[Factor]]:
    """Return what each factor did to a metric, largest first, and the factors of which no two runs can tell.

    Two runs make a pair for a factor if they agree in all other factors and in the seed, and, unless both are finished,
    in the steps done. Of each factor the two levels are taken that are furthest apart.
    """
    runs = [run for run in runs if run.settings]
    figures = [value(run) for run in runs]
    all_factors = factors(runs)
    found, untold = [], []
    for factor in all_factors:
        others = [other for other in all_factors if other is not factor]
        matched: dict[tuple, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for place, (run, figure) in enumerate(zip(runs, figures, strict=True)):
            if figure is not None and math.isfinite(figure):
                done = None if run.status == "finished" else run.log.steps
                key = (done, *run.seeds, *(other.levels[place] for other in others))
                matched[key][factor.levels[place]].append(figure)
        levels = sorted(set(factor.levels), key=order)
        steps = [
            step for i, low in enumerate(levels) for high in levels[i + 1 :]
            if (step := compare(factor, low, high, list(matched.values())))
        ]  # fmt: skip
        if steps:
            found.append(replace(max(steps, key=lambda step: abs(step.difference)), tried=len(steps)))
        else:
            untold.append(factor)
    return sorted(found, key=lambda effect: -abs(effect.difference)), untold


def compare(factor: Factor, low: str, high: str, matched: Sequence[dict[str, list[float]]]) -> Effect | None:
    """Return the effect of one step, None if there is no pair."""
    pairs = [(statistics.fmean(m[low]), statistics.fmean(m[high])) for m in matched if low in m and high in m]
    if not pairs:
        return None
    differences = [b - a for a, b in pairs]
    spread = statistics.stdev(differences) if len(pairs) > 1 else None
    means = [statistics.fmean(side) for side in zip(*pairs, strict=True)]
    return Effect(factor, low, high, means[0], means[1], spread, len(pairs))


def student_p(t: float, freedom: int) -> float:
    """Return the probability that Student's t is further from 0 than ``t``.

    By t = sqrt(freedom) tan(a) the density becomes cos(a)^(freedom - 1), summed here over small steps; scipy.stats says
    the same, but takes longer to import than most reports to write.

    Example:
        >>> round(student_p(12.706, 1), 4), round(student_p(2.228, 10), 4)
        (0.05, 0.05)
    """

    def area(start: float) -> float:
        width = (math.pi / 2 - start) / 1000
        return width * sum(math.cos(start + (i + 0.5) * width) ** (freedom - 1) for i in range(1000))

    return area(math.atan(t / math.sqrt(freedom))) / area(0.0)


def value_of(run: Run, name: str) -> str:
    """Return the text of a setting: of its first option if it is a group of options, ``-`` if the run has none."""
    if name in run.settings:
        return text(run.settings[name])
    return next((text(value) for other, value in run.settings.items() if other.startswith(f"{name}.")), "-")


def text(value: Any) -> str:
    """Return a setting as one types it.

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
