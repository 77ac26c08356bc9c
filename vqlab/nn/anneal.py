"""A schedule of a scalar, such as a temperature, over the training steps."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.validation import Count, NonNegativeInt, check_fields


@dataclass(frozen=True)
class Anneal:
    """A schedule from ``start`` to ``end``: constant during warm-up and hold, monotone between.

    Args:
        start: Value during the first ``warmup_steps``.
        end: Value during the last ``hold_steps`` of ``total_steps``, and after them.
        total_steps: Length in optimizer steps.
        warmup_steps: Steps at ``start``.
        hold_steps: Steps at ``end``.
        kind: ``cosine``, ``linear`` or ``exponential`` (linear in the logarithm).

    Example:
        >>> Anneal(1.0, 0.0, total_steps=100, warmup_steps=20, hold_steps=20, kind="linear").value(50).item()
        0.5
    """

    start: float
    end: float
    total_steps: Count
    warmup_steps: NonNegativeInt = 0
    hold_steps: NonNegativeInt = 0
    kind: Literal["cosine", "linear", "exponential"] = "cosine"

    def __post_init__(self) -> None:
        check_fields(self)
        total, warmup, hold = self.total_steps, self.warmup_steps, self.hold_steps
        if warmup + hold >= total:
            raise UserError(f"warmup_steps {warmup} + hold_steps {hold} must be below total_steps {total}")
        if self.kind == "exponential" and min(self.start, self.end) <= 0:
            raise UserError(f"start and end must be above 0 with kind=exponential, got {self.start} and {self.end}")

    def value(self, step: Tensor | int) -> Tensor:
        """Return the value at ``step``, a float32 scalar; as a tensor, ``step`` does not trigger a recompilation."""
        steps = self.total_steps - self.warmup_steps - self.hold_steps
        progress = ((torch.as_tensor(step) - self.warmup_steps) / steps).clamp(0, 1)
        if self.kind == "exponential":
            return self.start * (self.end / self.start) ** progress
        fraction = progress if self.kind == "linear" else (1 - torch.cos(math.pi * progress)) / 2
        return self.start + (self.end - self.start) * fraction


def extremes(quantity: Anneal | float) -> tuple[float, ...]:
    """Return start and end of an annealed quantity, or the constant."""
    return (quantity.start, quantity.end) if isinstance(quantity, Anneal) else (quantity,)


def value_at(quantity: Anneal | float, step: Tensor | int) -> Tensor:
    """Return the value (scalar, on the device of ``step``) of an annealed or constant quantity."""
    value = quantity.value(step) if isinstance(quantity, Anneal) else quantity
    return torch.as_tensor(value, device=torch.as_tensor(step).device)
