"""A progress bar with the figures that a user watches and nothing else."""

import sys
from typing import Any

import lightning
from lightning.pytorch.callbacks import TQDMProgressBar


class Progress(TQDMProgressBar):
    """tqdm, less the version number; a model chooses its figures with ``self.log(..., prog_bar=True)``.

    In a log file, where each refresh is a line of its own, it is refreshed once per hundred steps.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=1 if sys.stdout.isatty() else 100)

    def on_exception(self, *args: Any) -> None:
        """End the line of the bar, so that the error begins on its own."""
        bars = (self._train_progress_bar, self._val_progress_bar, self._test_progress_bar, self._predict_progress_bar)
        for bar in bars:
            if bar is not None:
                bar.close()

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        """Leave out ``v_num``."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics
