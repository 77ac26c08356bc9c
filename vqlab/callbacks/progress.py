"""A progress bar that shows the model's metrics only."""

import sys
from typing import Any

import lightning
from lightning.pytorch.callbacks import TQDMProgressBar

from vqlab.training.lightning_fixes import close_bars


class Progress(TQDMProgressBar):
    """tqdm without the version number; a model chooses its metrics with ``self.log(..., prog_bar=True)``.

    In a log file, where each refresh is a line of its own, it is refreshed every hundred steps.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=1 if sys.stdout.isatty() else 100)

    def on_exception(self, *args: Any) -> None:
        """End the line of the bar, so that the error starts on its own."""
        close_bars(self)

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        """Leave out ``v_num``."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
