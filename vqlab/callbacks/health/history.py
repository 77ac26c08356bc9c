"""What a run has shown so far, which rules look at, and what a rule is."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

ENOUGH = 20  # lines of the log that a rule needs, if it compares with what was usual
FEWEST = 5  # lines that must agree, at the least
HISTORY = 600  # lines that are remembered

Figures = dict[str, list[float]]  # by name, the latest last


@dataclass(frozen=True)
class Thresholds:
    """The thresholds that are options of :class:`~vqlab.callbacks.health.callback.Health`, which describes them."""

    min_usage: float = 0.2
    min_perplexity: float = 0.05
    grace_steps: int = 200
    gan_grace_steps: int = 1000
    oscillation: float = 0.25
    explosion: float = 100.0
    certainty: float = 0.99
    blindness: float = 0.55
    min_diversity: float = 0.25


@dataclass
class RunHistory:
    """What a run has shown so far.

    Attributes:
        lines: Of each line of the log: figures of ``train/``; ``grad_norm`` and ``grad_norm/<part>``; ``rate``, the
            learning rate; ``update_ratio``, how much the step changed a weight, as a share of the weight as it was when
            the training began: a rate that is too high makes the weights themselves so large that it would not show.
        validations: Of each validation: figures of ``val/``; ``step``; ``monitor``, the less the better.
        step: Steps done.
        steps: Steps planned, infinite if that is not known.
        lines_planned: Lines of the log, likewise.
        num_embeddings: The model's codes.
        num_classes: The data's classes.
        monitor: What is monitored.

    Example:
        >>> course = RunHistory(lines_planned=160)
        >>> course.add({"loss": 1.0}, {"loss": 0.5})
        >>> course.window, course.latest("loss"), course.recent("loss")
        (8, 0.5, [])
    """

    lines: Figures = field(default_factory=dict)
    validations: Figures = field(default_factory=dict)
    step: int = 0
    steps: float = math.inf
    lines_planned: float = math.inf
    num_embeddings: int = 0
    num_classes: int = 0
    monitor: str = "val/loss"

    def add(self, *lines: dict[str, float]) -> None:
        """Remember the figures of lines of the log, and forget the oldest."""
        for line in lines:
            remember(self.lines, line)

    @property
    def window(self) -> int:
        """Lines that must agree before a rule speaks: a twentieth of the run, so that it is in time to help."""
        return int(min(ENOUGH, max(FEWEST, self.lines_planned / 20)))

    def latest(self, name: str, stage: str = "train") -> float | None:
        """Return the last value of a figure, None where there is none."""
        values = (self.lines if stage == "train" else self.validations).get(name)
        return values[-1] if values else None

    def recent(self, name: str) -> list[float]:
        """Return a figure in the last ``window`` lines, nothing where there are fewer."""
        values = self.lines.get(name, [])
        return values[-self.window :] if len(values) >= self.window else []

    def earlier(self, name: str) -> list[float]:
        """Return a figure in the lines before those."""
        return self.lines.get(name, [])[: -self.window]

    def last_two(self, name: str, grace: int) -> list[float]:
        """Return a figure at the last two validations, nothing where one lies within the ``grace``: one may pass."""
        values, steps = (self.validations.get(key, [])[-2:] for key in (name, "step"))
        return values if len(values) == 2 and min(steps) >= grace else []


class Rule(NamedTuple):
    """What finds an illness.

    Attributes:
        event: Name of the verdict.
        mend: What to do about it, unless the model knows better (``health_hints``); ``{clip}`` is its option to clip.
        evidence: Returns what it saw, in half a sentence, or None; its docstring names threshold and source.
    """

    event: str
    mend: str
    evidence: Callable[[RunHistory, Thresholds], str | None]


def rule(event: str, mend: str) -> Callable[[Callable[[RunHistory, Thresholds], str | None]], Rule]:
    """Make a :class:`Rule` of the function that follows."""
    return lambda evidence: Rule(event, mend, evidence)


def remember(figures: Figures, new: dict[str, float]) -> None:
    """Append ``new`` to ``figures``, of each of which the last ``HISTORY`` values are kept."""
    for name, value in new.items():
        figures.setdefault(name, []).append(value)
        del figures[name][:-HISTORY]


def detrended_spread(values: list[float]) -> float:
    """Return the standard deviation of ``values`` about their least-squares line, as a share of their mean.

    Example:
        >>> detrended_spread([4.0, 3.0, 2.0, 1.0])
        0.0
        >>> round(detrended_spread([1.0, 3.0, 1.0, 3.0, 1.0, 3.0]), 2)
        0.48
    """
    if len(values) < 3:
        return 0.0
    slope, intercept = statistics.linear_regression(range(len(values)), values)
    residuals = [value - (intercept + slope * i) for i, value in enumerate(values)]
    return statistics.pstdev(residuals) / max(abs(statistics.fmean(values)), 1e-12)
