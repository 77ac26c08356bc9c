"""Images (or signals, documents) per second."""

import time
from typing import Any

import lightning

from vqlab.training.lightning_fixes import is_log_step


class Throughput(lightning.Callback):
    """Log ``train/samples_per_second`` over all ranks: training batches alone, without validation and checkpoints."""

    def __init__(self) -> None:
        self.samples = 0
        self.seconds = 0.0
        self.started = 0.0

    def on_train_batch_start(self, *args: Any) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the clock; log and begin again with each line of the log."""
        self.seconds += time.perf_counter() - self.started
        self.samples += len(next(iter(batch.values())))
        if is_log_step(trainer, trainer.global_step):
            pl_module.log("train/samples_per_second", self.samples * trainer.world_size / self.seconds)
            self.samples, self.seconds = 0, 0.0
