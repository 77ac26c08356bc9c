"""The learning rate beside the other figures of its step."""

from typing import Any

import lightning


class LearningRates(lightning.Callback):
    """Log ``lr/<optimizer>``, the rate that the step uses, in the same line as the losses.

    Lightning's own monitor logs a line of its own, which leaves two half-empty rows per step in metrics.csv.
    """

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any
    ) -> None:
        """Log the rate of each optimizer's first parameter group, and of each that has a name."""
        for config in trainer.lr_scheduler_configs:
            for number, group in enumerate(config.scheduler.optimizer.param_groups):
                if number == 0 or "name" in group:
                    pl_module.log(f"lr/{group['name']}" if "name" in group else config.name or "lr", group["lr"])
