"""Recorded metrics of a run, for the health rules."""

import math
import statistics
from dataclasses import dataclass, field

from vqlab.validation import Fraction

ENOUGH = 20  # log lines that a rule needs for a median
FEWEST = 5  # smallest window
HISTORY = 600  # log lines that are kept
Metrics = dict[str, list[float]]  # by name, the latest last


@dataclass(eq=False)
class Thresholds:
    """Thresholds of the rules; :class:`~vqlab.callbacks.health.callback.Health` describes them."""

    min_usage: Fraction = 0.2
    min_perplexity: Fraction = 0.05
    grace_steps: int = 200
    gan_grace_steps: int = 1000
    oscillation: float = 0.25
    explosion: float = 100.0
    certainty: Fraction = 0.99
    blindness: Fraction = 0.55
    min_diversity: Fraction = 0.25


@dataclass
class RunHistory:
    """Metrics of a run so far."""

    # Per log line: metrics of train/; grad_norm and grad_norm/<part>; rate, the learning rate; update_ratio, the change
    # of a weight by the step relative to its norm at the start (a rate that is too high also makes the weights large).
    lines: Metrics = field(default_factory=dict)
    validations: Metrics = field(default_factory=dict)  # metrics of val/; step; monitor, the lower the better
    step: int = 0  # steps done
    steps: float = math.inf  # steps planned, if known
    lines_planned: float = math.inf  # log lines planned, if known
    num_embeddings: int = 0
    num_classes: int = 0
    monitor: str = "val/loss"  # name of the monitored metric

    def add(self, values: dict[str, float], stage: str = "train") -> None:
        """Append the metrics of a log line or of a validation (``val``), and drop the oldest."""
        metrics = self.lines if stage == "train" else self.validations
        for name, value in values.items():
            metrics.setdefault(name, []).append(value)
            del metrics[name][:-HISTORY]

    @property
    def window(self) -> int:
        """Log lines over which a problem must persist: a twentieth of the run, 5 to 20."""
        return int(min(ENOUGH, max(FEWEST, self.lines_planned / 20)))

    def latest(self, name: str, stage: str = "train") -> float | None:
        """Return the last value of a metric, None if there is none."""
        values = (self.lines if stage == "train" else self.validations).get(name)
        return values[-1] if values else None

    def recent(self, name: str) -> list[float]:
        """Return a metric over the last ``window`` lines, empty if there are fewer."""
        values = self.lines.get(name, [])
        return values[-self.window :] if len(values) >= self.window else []

    def earlier(self, name: str) -> list[float]:
        """Return a metric over the lines before the last ``window``."""
        return self.lines.get(name, [])[: -self.window]

    def last_two(self, name: str, grace: int) -> list[float]:
        """Return a metric at the last two validations, empty if one lies within the first ``grace`` steps."""
        values, steps = (self.validations.get(key, [])[-2:] for key in (name, "step"))
        return values if len(values) == 2 and min(steps) >= grace else []


def detrended_spread(values: list[float]) -> float:
    """Return the standard deviation of ``values`` about their least-squares line, relative to their mean.

    Example:
        >>> detrended_spread([4.0, 3.0, 2.0, 1.0]), round(detrended_spread([1.0, 3.0, 1.0, 3.0, 1.0, 3.0]), 2)
        (0.0, 0.48)
    """
    if len(values) < 3:
        return 0.0
    slope, intercept = statistics.linear_regression(range(len(values)), values)
    residuals = [value - (intercept + slope * i) for i, value in enumerate(values)]
    return statistics.pstdev(residuals) / max(abs(statistics.fmean(values)), 1e-12)
