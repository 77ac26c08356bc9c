"""last.ckpt and best.ckpt."""

import math
import time
from pathlib import Path
from typing import Any, Literal

import lightning
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_warn

from vqlab.errors import UserError
from vqlab.training.loading import is_count
from vqlab.training.log_interval import is_log_step
from vqlab.training.requeue import Requeue, queue_again


class LastAndBest(Checkpoint):
    """Write ``checkpoints/last.ckpt`` every n steps, and ``checkpoints/best.ckpt`` at the best validation so far.

    ``last.ckpt`` is also written after each validation, at the end of the training, and when SLURM says that a job's
    time is nearly up. Each file replaces its predecessor in one piece.

    Args:
        every_n_steps: Steps between two ``last.ckpt``.
        monitor: Metric that decides which checkpoint is best.
        mode: Whether ``monitor`` is better ``min`` or ``max``.

    Raises:
        UserError: If ``every_n_steps`` is below 1.
    """

    def __init__(
        self, every_n_steps: int = 500, monitor: str = "val/loss", mode: Literal["min", "max"] = "min"
    ) -> None:
        if every_n_steps < 1:
            raise UserError(
                f"every_n_steps must be at least 1, got {every_n_steps}: set --checkpoint.every_n_steps=500"
            )
        self.every_n_steps, self.monitor, self.mode = every_n_steps, monitor, mode
        self.best_score = math.inf if mode == "min" else -math.inf
        self.best_step: int | None = None
        self.line: dict[str, float] | None = None  # of the log, due but not yet written
        self.requeue = Requeue()
        self.leaving = False  # whether the job is queued again after the next last.ckpt

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Listen for SLURM's signal."""
        self.requeue.listen(trainer)

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Save every n steps, and where the training is about to stop or to be stopped."""
        step = trainer.global_step
        accumulating = trainer.fit_loop._should_accumulate()
        last_epoch = trainer.max_epochs not in (None, -1) and trainer.current_epoch + 1 >= (trainer.max_epochs or 0)
        stops = (
            trainer.should_stop
            or (trainer.max_steps != -1 and step >= trainer.max_steps)
            or (last_epoch and trainer.is_last_batch)
        )
        self.leaving = self.requeue.is_due(trainer) and not stops
        if validation_follows(trainer):
            return  # The validation ends with a checkpoint; from one before it, Lightning would go on behind it.
        if stops or self.leaving or (step % self.every_n_steps == 0 and not accumulating):
            self.line = due_line(trainer)
            self._save_last(trainer)
            self.line = None

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save ``best`` if it is, and ``last``."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor in trainer.callback_metrics:
            score = float(trainer.callback_metrics[self.monitor])
            if score < self.best_score if self.mode == "min" else score > self.best_score:
                self.best_score, self.best_step = score, trainer.global_step
                self._save(trainer, "best")
        elif known := ", ".join(sorted(name for name in trainer.callback_metrics if name.startswith("val/"))):
            rank_zero_warn(f"no best.ckpt, {self.monitor} is not logged: set --checkpoint.monitor to one of {known}")
        self._save_last(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Best score so far and its step, and the line of the log that this batch will have."""
        return {"best_score": self.best_score, "best_step": self.best_step, "line": self.line}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best score so far."""
        self.best_score, self.best_step = state_dict["best_score"], state_dict["best_step"]

    def _save_last(self, trainer: lightning.Trainer) -> None:
        self._save(trainer, "last")
        if self.leaving and trainer.is_global_zero:
            queue_again(self._path(trainer, "last"))
        self.leaving = False

    def _save(self, trainer: lightning.Trainer, name: str) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self._path(trainer, name))

    @staticmethod
    def _path(trainer: lightning.Trainer, name: str) -> Path:
        return Path(trainer.default_root_dir) / "checkpoints" / f"{name}.ckpt"


def validation_follows(trainer: lightning.Trainer) -> bool:
    """Whether a validation follows this batch."""
    batches = trainer.fit_loop._data_fetcher
    return batches is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(batches)


def due_line(trainer: lightning.Trainer) -> dict[str, float] | None:
    """Return what will be logged with this batch, if anything: Lightning writes it only when all callbacks are done.

    A run that is killed between its checkpoint and that line would lack it for good, were it not in the checkpoint.
    """
    if not is_log_step(trainer, trainer.global_step):
        return None
    figures = {name: float(value) for name, value in trainer._logger_connector.metrics["log"].items()}
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    return {"step": step, "time": round(time.time(), 1), **figures, "epoch": trainer.current_epoch}


def stored_line(checkpoint: dict[str, Any]) -> dict[str, float] | None:
    """Return the line of the log that was not yet written when ``checkpoint`` was, if there was one."""
    state = checkpoint["callbacks"].get(LastAndBest.__qualname__)
    line = state.get("line") if isinstance(state, dict) else None
    return line if isinstance(line, dict) and is_count(line.get("step")) else None
