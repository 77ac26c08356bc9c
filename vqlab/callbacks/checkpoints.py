"""last.ckpt and best.ckpt."""

import difflib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info

from vqlab.callbacks.slurm import Requeue, queue_again
from vqlab.errors import UserError
from vqlab.experiments.checkpoint_header import checkpoint_step
from vqlab.training.checkpoint import is_count
from vqlab.training.finite import NonFiniteError
from vqlab.training.log_interval import is_log_step
from vqlab.training.stop_signals import STOP_SIGNALS, Stopped


class LastAndBest(Checkpoint):
    """Write ``checkpoints/last.ckpt`` every n steps, and ``checkpoints/best.ckpt`` at the best validation so far.

    ``last.ckpt`` is also written after each validation, at the end of the training, when SLURM says that a job's
    time is nearly up, and where the training is stopped: by SIGINT or SIGTERM after the current batch (in a validation,
    which a resumed run repeats, after its current batch; the last one is completed), and by an error between two
    batches, such as one of data loading or of a validation. After an error within a batch, a loss that is not finite
    among them, the weights may hold half of it: then the file stays as it is, and so it does after an error under
    DDP, which the other ranks know nothing of. Each file replaces its predecessor in one piece.

    A run that ends without a validation is validated at its end, so that there is a ``best.ckpt``.

    Args:
        every_n_steps: Steps between two ``last.ckpt``.
        monitor: Metric that decides which checkpoint is best.
        mode: Whether ``monitor`` is better ``min`` or ``max``.

    Raises:
        UserError: If ``every_n_steps`` is below 1, or a validation does not log ``monitor``.
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
        self.validated = False  # whether the run has been validated
        self.place: Place | None = None  # after the current batch, where a checkpoint of it is sound
        self.reached = 0  # step whose gradients are not waiting for those of further batches
        self.saved: int | None = None  # number of the batch after which last.ckpt was written
        self.repairs = False  # whether the checkpoint that is being written is one of ``place``
        self.resume_command: Callable[[Path], str] = "vqlab fit --ckpt_path {}".format

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Listen for SLURM's signal, and from now on stop between batches only."""
        self.place, self.saved, self.reached = None, None, trainer.global_step
        self.requeue.listen(trainer)
        STOP_SIGNALS.deferred = True

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any) -> None:
        """Save every n steps, and where the training is about to stop or to be stopped."""
        step = trainer.global_step
        last_epoch = trainer.max_epochs not in (None, -1) and trainer.current_epoch + 1 >= (trainer.max_epochs or 0)
        stops = (
            trainer.should_stop
            or (trainer.max_steps != -1 and step >= trainer.max_steps)
            or (last_epoch and trainer.is_last_batch)
        )
        self.leaving = self.requeue.is_due(trainer) and not stops
        self.place = Place(trainer, pl_module, stops)
        if stops and not self.validated and trainer.enable_validation and not self.place.validates:
            trainer.should_stop, trainer.check_val_every_n_epoch = True, None  # then Lightning validates
        due = self.place.complete and step // self.every_n_steps > self.reached // self.every_n_steps
        if self.place.complete:
            self.reached = step
        if validation_follows(trainer):
            return  # The validation ends with a checkpoint; from one before it, Lightning would go on behind it.
        stopped = asked(trainer, self.place)
        if stops or self.leaving or stopped or due:
            self.line = due_line(trainer)
            self._save_last(trainer)
            self.line = None
        if stopped:
            raise Stopped(stopped)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop before the validation if a signal has asked for it."""
        self._stop_if_asked(trainer)

    def on_validation_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop within it, unless there are other ranks, whose numbers of batches may differ."""
        if trainer.world_size == 1:
            self._stop_if_asked(trainer)

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """From here to ``on_validation_end`` some callbacks have counted the validation, and others have not."""
        if self.place is not None:
            self.place.sound = False

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save ``best`` if it is, and ``last``."""
        if trainer.state.fn != "fit":
            return
        self._check_monitor(trainer)
        if trainer.sanity_checking:
            return
        self.validated = True
        if self.monitor in trainer.callback_metrics:
            score = float(trainer.callback_metrics[self.monitor])
            if score < self.best_score if self.mode == "min" else score > self.best_score:
                self.best_score, self.best_step = score, trainer.global_step
                self._save(trainer, "best")
        if self.place is None or self.place.complete or self.place.stops:
            self._save_last(trainer)
        if self.place is not None:
            self.place.sound, self.place.validates = True, False
            self._stop_if_asked(trainer)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Save the state after the last batch, where it is still there, and say how to resume."""
        stopped = isinstance(exception, Stopped)
        if self.place is None or isinstance(exception, NonFiniteError):
            return  # no batch yet; or Health says from where to resume
        sound = self.place.sound and self.place.complete and is_between_batches(trainer)
        alone = stopped or trainer.world_size == 1
        if sound and alone and self.saved != trainer.fit_loop.total_batch_idx:
            self.repairs = True
            try:
                self._save_last(trainer)
            except UserError:  # the disk may be what the first error is about
                if stopped:
                    raise
            finally:
                self.repairs = False
        last = self._path(trainer, "last")
        if last.exists():
            step = checkpoint_step(last)
            where = "" if step == trainer.global_step else f" from step {step}"
            rank_zero_info(f"stopped at step {trainer.global_step}: resume{where} with {self.resume_command(last)}")

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Let the progress in a checkpoint that is written late be that after the batch, as Lightning resumes it."""
        if self.place is None:
            return
        if self.repairs:
            self.place.restore(checkpoint)
        elif trainer.validating and not self.place.validates:
            self.place.count_step(checkpoint)  # which a run that is resumed behind a regular validation does itself

    def state_dict(self) -> dict[str, Any]:
        """Best score so far and its step, and the line of the log that this batch will have."""
        names = ("best_score", "best_step", "validated", "line")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best score so far."""
        self.best_score, self.best_step = state_dict["best_score"], state_dict["best_step"]
        self.validated = state_dict.get("validated", self.best_step is not None)

    def _check_monitor(self, trainer: lightning.Trainer) -> None:
        """Raise UserError if the validation does not log ``monitor``; the first time in the sanity check."""
        known = sorted(name for name in trainer.callback_metrics if name.startswith("val/"))
        early = trainer.sanity_checking and not self.monitor.startswith("val/")  # train/... is not logged yet
        if known and not early and self.monitor not in trainer.callback_metrics:
            close = difflib.get_close_matches(self.monitor, known, n=3, cutoff=0.5) or known
            raise UserError(f"{self.monitor} is not logged: set --checkpoint.monitor to one of {', '.join(close)}")

    def _stop_if_asked(self, trainer: lightning.Trainer) -> None:
        if self.place is not None and (number := asked(trainer, self.place)):
            raise Stopped(number)

    def _save_last(self, trainer: lightning.Trainer) -> None:
        self._save(trainer, "last")
        self.saved = trainer.fit_loop.total_batch_idx
        if self.leaving and trainer.is_global_zero:
            queue_again(self._path(trainer, "last"))
        self.leaving = False

    def _save(self, trainer: lightning.Trainer, name: str) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self._path(trainer, name))

    @staticmethod
    def _path(trainer: lightning.Trainer, name: str) -> Path:
        return Path(trainer.default_root_dir) / "checkpoints" / f"{name}.ckpt"


class Place:
    """How far the training is after a batch, to be restored into a checkpoint that is written later.

    Lightning goes on from a checkpoint by its counters, and those of later moments make it skip or repeat something:
    behind a batch the next number of the log is taken or not, behind an epoch the next one has begun or not, and a
    validation that was left in the middle would go on there.
    """

    def __init__(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stops: bool) -> None:
        loop = trainer.fit_loop
        self.stops = stops  # whether this is the last batch of the run
        self.sound = True  # whether a checkpoint may be written
        stop, trainer.should_stop = trainer.should_stop, False
        self.validates = validation_follows(trainer)  # by the interval, not because the training ends
        trainer.should_stop = stop
        self.epoch = trainer.current_epoch
        self.stepped = loop.epoch_loop._batches_that_stepped
        self.steps_on = not loop._should_accumulate()
        self.complete = self.steps_on and getattr(
            pl_module, "optimizer_stepped", True
        )  # no gradients wait for further batches
        self.loops = loop.state_dict() if trainer.is_last_batch and not self.validates else None
        self.loaders = loop._combined_loader._state_dicts() if loop._combined_loader else []

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Set the progress in ``checkpoint``."""
        if self.loops is not None:
            checkpoint["loops"]["fit_loop"], checkpoint["epoch"] = self.loops, self.epoch
            return
        loops = checkpoint["loops"]["fit_loop"]
        loops["state_dict"]["combined_loader"] = self.loaders  # the next batch may have been read
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] = self.stepped
        if self.validates:
            begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}  # Lightning then begins with it
            progress = {"total": begun, "current": dict.fromkeys(begun, 0), "is_last_batch": False}
            loops["epoch_loop.val_loop.batch_progress"] = progress
        else:
            self.count_step(checkpoint)

    def count_step(self, checkpoint: dict[str, Any]) -> None:
        """Count the batch in the number that the next line of the log gets."""
        checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"] += self.steps_on


def asked(trainer: lightning.Trainer, place: Place) -> int:
    """Return the number of the signal for which the run stops at ``place``, 0 if it goes on: the same on all ranks."""
    if place.stops or not place.complete:
        return 0
    if trainer.world_size == 1:
        return STOP_SIGNALS.asked
    number = torch.tensor(STOP_SIGNALS.asked, device=trainer.strategy.root_device)
    return int(trainer.strategy.reduce(number, reduce_op="max"))


def is_between_batches(trainer: lightning.Trainer) -> bool:
    """Whether the last batch is complete and no other has begun."""
    total = trainer.fit_loop.epoch_loop.batch_progress.total
    return total.ready == total.completed  # type: ignore[attr-defined]


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
