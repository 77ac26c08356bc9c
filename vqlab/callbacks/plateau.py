"""Lower the learning rates when the validation no longer improves."""

import math
from typing import Annotated, Any, Literal

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from vqlab.callbacks.checkpoints import check_monitor
from vqlab.validation import Checked, Count, Range

Factor = Annotated[float, Range(0, 1, open="both")]


class Plateau(Checked, Callback):
    """Multiply all learning rates by ``factor`` after ``patience`` validations without a better ``monitor``.

    The factor multiplies the model's schedule from the next batch on. ``ReduceLROnPlateau`` of torch would replace that
    schedule, and Lightning does not step it for a model with manual optimization.

    Args:
        patience: Validations to wait; null disables the callback.
        factor: Factor on the learning rates, each time.
        floor: Smallest product of these factors.
        monitor: Metric to watch.
        mode: Whether ``monitor`` is minimized (``min``) or maximized (``max``).

    Raises:
        UserError: If an argument is out of range, or ``monitor`` is not logged.
    """

    def __init__(
        self,
        patience: Count | None = None,
        factor: Factor = 0.2,
        floor: Factor = 0.01,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
    ) -> None:
        self.patience, self.factor, self.floor, self.monitor, self.mode = patience, factor, floor, monitor, mode
        self.lr_factor = 1.0  # product of the factors so far; the schedule reads it
        self.best, self.waited = math.inf, 0  # best score, and the validations since

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.patience is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        check_monitor(trainer, self.monitor)
        score = float(trainer.callback_metrics[self.monitor]) * (1 if self.mode == "min" else -1)
        self.waited = 0 if score < self.best else self.waited + 1
        self.best = min(score, self.best)
        if self.waited >= self.patience and self.lr_factor > self.floor:
            self.lr_factor, self.waited = max(self.floor, self.lr_factor * self.factor), 0
            what = f"{self.monitor} did not improve in {self.patience} validations"
            rank_zero_info(f"plateau: {what}, learning rates are now {self.lr_factor:g} of their schedule")

    def state_dict(self) -> dict[str, Any]:
        return {"lr_factor": self.lr_factor, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)
