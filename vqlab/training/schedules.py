"""Learning-rate schedules, counted in optimizer steps."""

import math
from dataclasses import dataclass
from typing import Literal

from vqlab.errors import UserError
from vqlab.validation import Count, Fraction, NonNegativeInt, Positive, check_fields


@dataclass(frozen=True)
class Schedule:
    """A factor on the learning rate: linear warm-up, then the named decay.

    Args:
        kind: ``constant``; ``cosine`` or ``linear`` from 1 down to ``final_factor`` at ``total_steps``; ``step``
            (times ``gamma`` every ``decay_steps``, but never below ``final_factor``); ``exponential`` (the same,
            continuously).
        warmup_steps: Steps of linear warm-up from 0.
        total_steps: Last step of cosine and linear. Default: the length of the training.
        final_factor: Lowest factor of all but ``constant``.
        decay_steps: Steps per factor of ``gamma``.
        gamma: Decay of ``step`` and ``exponential``.

    Raises:
        UserError: If an argument is out of range, or the warm-up is not shorter than ``total_steps``.

    Example:
        >>> schedule = Schedule("cosine", warmup_steps=10, total_steps=110)
        >>> [round(schedule.factor(step), 3) for step in (0, 4, 9, 60, 110)]
        [0.1, 0.5, 1.0, 0.5, 0.0]
    """

    kind: Literal["constant", "cosine", "linear", "step", "exponential"] = "constant"
    warmup_steps: NonNegativeInt = 0
    total_steps: int | None = None
    final_factor: Fraction = 0.0
    decay_steps: Count = 1000
    gamma: Positive = 0.5

    def __post_init__(self) -> None:
        check_fields(self)
        if self.total_steps is not None and self.total_steps <= self.warmup_steps:
            raise UserError(
                f"warmup_steps must be less than total_steps, got {self.warmup_steps} of {self.total_steps}"
            )

    def factor(self, step: int, training_steps: float = math.inf) -> float:
        """Return the factor for the optimizer step with index ``step`` (0 is the first).

        Args:
            step: Index of the step.
            training_steps: Length of the training, used if ``total_steps`` is not set; infinite means no decay.
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        after = step - self.warmup_steps
        total = training_steps if self.total_steps is None else self.total_steps
        progress = min(1.0, after / max(1, total - self.warmup_steps))
        match self.kind:
            case "cosine":
                return self.final_factor + (1 - self.final_factor) * (1 + math.cos(math.pi * progress)) / 2
            case "linear":
                return 1 + (self.final_factor - 1) * progress
            case "step":
                return max(self.final_factor, self.gamma ** (after // self.decay_steps))
            case "exponential":
                return max(self.final_factor, self.gamma ** (after / self.decay_steps))
            case _:
                return 1.0
