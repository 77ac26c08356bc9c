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

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        """Leave out ``v_num``."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics
