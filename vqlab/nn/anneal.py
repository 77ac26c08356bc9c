"""A quantity that moves from one value to another while a model trains."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vqlab.errors import UserError


@dataclass(frozen=True)
class Anneal:
    """From ``start`` to ``end``: at ``start`` for the warm-up, at ``end`` for the last steps, monotone between.

    Args:
        start: Value during the first ``warmup_steps``.
        end: Value during the last ``hold_steps`` of ``total_steps``, and after them.
        total_steps: Length in optimizer steps.
        warmup_steps: Steps at ``start``.
        hold_steps: Steps at ``end``.
        kind: ``cosine``, ``linear`` or ``exponential`` (linear in the logarithm) between.

    Raises:
        UserError: If the steps do not fit into ``total_steps``, a value is not finite, or ``exponential`` meets a value
            that is not positive.

    Example:
        >>> temperature = Anneal(1.0, 0.0, total_steps=100, warmup_steps=20, hold_steps=20, kind="linear")
        >>> [round(temperature.value(step).item(), 3) for step in (0, 20, 50, 80, 100)]
        [1.0, 1.0, 0.5, 0.0, 0.0]
    """

    start: float
    end: float
    total_steps: int
    warmup_steps: int = 0
    hold_steps: int = 0
    kind: Literal["cosine", "linear", "exponential"] = "cosine"

    def __post_init__(self) -> None:
        if self.kind not in ("cosine", "linear", "exponential"):
            raise UserError(f"kind must be cosine, linear or exponential, got {self.kind!r}")
        if min(self.warmup_steps, self.hold_steps) < 0 or self.warmup_steps + self.hold_steps >= self.total_steps:
            raise UserError(
                f"warmup_steps {self.warmup_steps} and hold_steps {self.hold_steps} must not be negative "
                f"and must leave a step of total_steps {self.total_steps}: set total_steps higher"
            )
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise UserError(f"start and end must be finite, got {self.start} and {self.end}")
        if self.kind == "exponential" and min(self.start, self.end) <= 0:
            raise UserError(
                f"exponential needs start and end above 0, got {self.start} and {self.end}: set kind=linear"
            )

    def value(self, step: Tensor | int) -> Tensor:
        """Return the value (scalar float32) at ``step``, a tensor so that a compiled forward need not know it."""
        steps = self.total_steps - self.warmup_steps - self.hold_steps
        progress = ((torch.as_tensor(step) - self.warmup_steps) / steps).clamp(0, 1)
        if self.kind == "exponential":
            return self.start * (self.end / self.start) ** progress
        share = progress if self.kind == "linear" else (1 - torch.cos(math.pi * progress)) / 2
        return self.start + (self.end - self.start) * share


def extremes(quantity: Anneal | float) -> tuple[float, ...]:
    """Return the values that bound a quantity that anneals, or stays as it is."""
    return (quantity.start, quantity.end) if isinstance(quantity, Anneal) else (quantity,)


def value_at(quantity: Anneal | float, step: Tensor | int) -> Tensor:
    """Return the value (scalar, on the device of ``step``) of a quantity that anneals, or stays as it is."""
    value = quantity.value(step) if isinstance(quantity, Anneal) else quantity
    return torch.as_tensor(value, device=torch.as_tensor(step).device)
