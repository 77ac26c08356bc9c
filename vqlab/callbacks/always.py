"""Callbacks that every run of the command line has."""

import json
import os
import sys
import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_info
from torch.nn.modules.batchnorm import _BatchNorm

from vqlab.atomic_io import write_atomic
from vqlab.experiments.run_state import TIMES_FILE
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
    """Print how long the training will take, from the time of its first batches and of the validation before them.

    Where a sweep asks for these times, they are written to the file that it names.
    """

    warmup, batches = 5, 25  # the time is that of the batches after the warm-up
    patience = 20.0  # seconds after which fewer batches are enough

    def __init__(self) -> None:
        self.validation = 0.0  # seconds of a validation on the whole set
        self.ends: list[float] = []  # time of each batch's end
        self.reported = False

    def on_sanity_check_start(self, *args: Any) -> None:
        self.started, self.validated = time.perf_counter(), [0.0]

    def on_validation_batch_start(self, *args: Any) -> None:
        self.batch_started = time.perf_counter()

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.sanity_checking:
            self.validated.append(time.perf_counter() - self.batch_started)

    def on_sanity_check_end(self, trainer: Trainer, *args: Any) -> None:
        besides = time.perf_counter() - self.started - sum(self.validated)
        self.validation = besides + self.validated[-1] * sum(trainer.num_val_batches)

    def on_train_start(self, *args: Any) -> None:
        self.start, self.started = time.time(), time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if not self.reported:
            self.ends.append(time.perf_counter())
            if len(self.ends) == self.batches or self.ends[-1] - self.started > self.patience:
                self.report(trainer)

    def on_validation_start(self, trainer: Trainer, *args: Any) -> None:
        """Report before the time of a validation is among those of the batches."""
        self.report(trainer)

    def on_train_end(self, trainer: Trainer, *args: Any) -> None:
        self.report(trainer)

    def report(self, trainer: Trainer) -> None:
        """Once there are two batches, write the times for a sweep; print the remaining time if it is over a minute."""
        if self.reported or len(self.ends) < 2:
            return
        self.reported = True
        skipped = min(self.warmup, len(self.ends) // 2)
        batch = (self.ends[-1] - self.ends[skipped - 1]) / (len(self.ends) - skipped)
        step = batch * trainer.accumulate_grad_batches
        if (path := os.environ.get(TIMES_FILE)) and trainer.is_global_zero:
            times = {"start": self.start, "step": step, "validation": self.validation}
            with write_atomic(path) as file:
                file.write(json.dumps({**times, "epoch": trainer.num_training_batches}).encode())
        steps = trainer.max_steps - trainer.global_step
        validations = int(steps * trainer.accumulate_grad_batches / (trainer.val_check_batch or steps))
        if (seconds := steps * step + validations * self.validation) > 60:
            device = trainer.strategy.root_device.type.upper()
            rank_zero_info(f"{steps:,} more steps: about {duration(seconds)} on this {device}")


class LastValidation(Callback):
    """Validate after the last step, also where ``val_check_interval`` does not divide ``max_steps``."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if 0 <= trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True  # Lightning then validates, unless it has just done so


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
