"""Lower the learning rates where validation no longer improves."""

import math
from typing import Any, Literal

import lightning
from lightning.pytorch.utilities import rank_zero_info

from vqlab.errors import UserError


class Plateau(lightning.Callback):
    """Multiply all learning rates by ``factor`` after ``patience`` validations without a better ``monitor``.

    It comes on top of the model's schedule, from the next batch on. torch's ``ReduceLROnPlateau`` would have to take
    the place of that schedule, and Lightning steps none for a model that steps its optimizers itself.

    Args:
        patience: Validations to wait; null never lowers a rate.
        factor: What the rates are multiplied by, each time.
        floor: Smallest product of these factors.
        monitor: Metric to watch.
        mode: Whether ``monitor`` is better ``min`` or ``max``.

    Attributes:
        lr_factor: The product so far.

    Raises:
        UserError: If an argument is out of range, or ``monitor`` is not logged.
    """

    def __init__(
        self,
        patience: int | None = None,
        factor: float = 0.2,
        floor: float = 0.01,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
    ) -> None:
        if patience is not None and patience < 1:
            raise UserError(f"patience must be at least 1, got {patience}: set --plateau.patience=5, or null")
        for name, value in (("factor", factor), ("floor", floor)):
            if not 0 < value < 1:
                raise UserError(f"{name} must lie in (0, 1), got {value}: set --plateau.{name}=0.5 or leave it out")
        self.patience, self.factor, self.floor, self.monitor, self.mode = patience, factor, floor, monitor, mode
        self.lr_factor, self.best, self.waited = 1.0, math.inf, 0

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Compare with the best so far."""
        if self.patience is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(name for name in trainer.callback_metrics if name.startswith("val/")))
            raise UserError(f"{self.monitor} is not logged: set --plateau.monitor to one of {known}")
        score = float(trainer.callback_metrics[self.monitor]) * (1 if self.mode == "min" else -1)
        self.waited = 0 if score < self.best else self.waited + 1
        self.best = min(score, self.best)
        if self.waited >= self.patience and self.lr_factor > self.floor:
            self.lr_factor, self.waited = max(self.floor, self.lr_factor * self.factor), 0
            rank_zero_info(
                f"plateau: {self.monitor} is no better after {self.patience} validations, learning rates are now "
                f"{self.lr_factor:g} of their schedule"
            )

    def state_dict(self) -> dict[str, Any]:
        """Factor, best score, and validations since."""
        return {"lr_factor": self.lr_factor, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.lr_factor, self.best, self.waited = (state_dict[name] for name in ("lr_factor", "best", "waited"))
