"""Callbacks that every run of the command line has."""

import os
import sys
import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_info
from torch.nn.modules.batchnorm import _BatchNorm

from vqlab.experiments.text import duration
from vqlab.nn.distributed import means_over_ranks
from vqlab.training.lightning_fixes import close_bars, is_log_step


class LearningRates(Callback):
    """Log ``lr/<optimizer>``, the rate that the step uses, in the log line of the losses."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Log the rate of each optimizer's first parameter group, and of each group that has a name."""
        for config in trainer.lr_scheduler_configs:
            for number, group in enumerate(config.scheduler.optimizer.param_groups):
                if number == 0 or "name" in group:
                    pl_module.log(f"lr/{group['name']}" if "name" in group else config.name or "lr", group["lr"])


class Throughput(Callback):
    """Log ``train/samples_per_second`` over all ranks: training batches only, without validation and checkpoints."""

    def __init__(self) -> None:
        self.samples, self.seconds, self.started = 0, 0.0, 0.0

    def on_train_batch_start(self, *args: Any) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:
        self.seconds += time.perf_counter() - self.started
        self.samples += len(next(iter(batch.values())))
        if is_log_step(trainer, trainer.global_step):
            pl_module.log("train/samples_per_second", self.samples * trainer.world_size / self.seconds)
            self.samples, self.seconds = 0, 0.0


class Estimate(Callback):
    """Print how long the training will take, from the time of its first batches."""

    first, last = 5, 25  # batches between which the time is measured

    def on_train_start(self, *args: Any) -> None:
        self.batches = 0

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.batches += 1
        if self.batches == self.first:
            self.started = time.perf_counter()
        if self.batches == self.last and (steps := trainer.max_steps - trainer.global_step) > 0:
            each = (time.perf_counter() - self.started) / (self.last - self.first) * trainer.accumulate_grad_batches
            if each * steps > 60:
                device = trainer.strategy.root_device.type.upper()
                rank_zero_info(
                    f"{steps:,} more steps: about {duration(each * steps)} on this {device}, plus validation"
                )


class StepSeed(Callback):
    """Seed torch from (run seed, step, batch of the step, rank), so that a resumed run draws the same numbers."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        # Accumulated batches share the number of their step, but must not share their noise.
        accumulate = trainer.accumulate_grad_batches  # 1 for manual optimization, where global_step counts batches
        number = (seed * 1_000_003 + trainer.global_step) * accumulate + batch_idx % accumulate
        torch.manual_seed(number * trainer.world_size + trainer.global_rank)

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Seed as for the next batch."""
        if trainer.state.fn == "fit":
            self.on_train_batch_start(trainer, pl_module, None, 0)


class BatchStatistics(Callback):
    """Average the running statistics of batch norm over the ranks, which each normalize their own part of the batch."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        parts = [part for part in pl_module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
        statistics = [value for part in parts for value in (part.running_mean, part.running_var) if value is not None]
        if statistics and trainer.world_size > 1:
            for value, mean in zip(statistics, means_over_ranks(statistics), strict=True):
                value.copy_(mean)


class Progress(TQDMProgressBar):
    """tqdm without the version number; a model chooses its metrics with ``self.log(..., prog_bar=True)``."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1 if sys.stdout.isatty() else 100)  # each refresh is a line in a log file

    def on_exception(self, *args: Any) -> None:
        """End the line of the bar, so that the error message starts on a new line."""
        close_bars(self)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
