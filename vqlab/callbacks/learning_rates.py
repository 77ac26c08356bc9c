"""Learning rates in the log line of their step."""

from typing import Any

import lightning


class LearningRates(lightning.Callback):
    """Log ``lr/<optimizer>``, the rate that the step uses, in the log line of the losses.

    Lightning's ``LearningRateMonitor`` logs separate lines, half-empty rows of metrics.csv.
    """

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, *args: Any) -> None:
        """Log the rate of each optimizer's first parameter group, and of each that has a name."""
        for config in trainer.lr_scheduler_configs:
            for number, group in enumerate(config.scheduler.optimizer.param_groups):
                if number == 0 or "name" in group:
                    pl_module.log(f"lr/{group['name']}" if "name" in group else config.name or "lr", group["lr"])
