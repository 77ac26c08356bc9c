"""Write last.ckpt and best.ckpt."""

import difflib
import math
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from vqlab.errors import UserError
from vqlab.experiments.checkpoint_header import checkpoint_step
from vqlab.training import lightning_fixes as fixes
from vqlab.training.steps import NonFiniteError
from vqlab.training.stop_signals import STOP_SIGNALS, Stopped
from vqlab.validation import Checked, Count


class LastAndBest(Checked, Checkpoint):
    """Write ``checkpoints/last.ckpt`` every n steps, and ``checkpoints/best.ckpt`` at the best validation so far.

    ``last.ckpt`` is also written after each validation, at the end, before a SLURM job's time limit, when SIGINT or
    SIGTERM stops the training (after the current batch, or in a validation, which a resumed run repeats), and after an
    error between two batches; not after an error within a batch, when the weights may be half updated, nor under DDP,
    where the other ranks do not notice it. A run without any validation is validated at its end, for ``best.ckpt``.

    SLURM announces the time limit by a signal (``--signal=SIGUSR1@120``): the ranks agree on it at the next log line,
    where Lightning would save in the middle of a batch. ``SLURMEnvironment(auto_requeue=False)`` disables this.

    Args:
        every_n_steps: Steps between two ``last.ckpt``.
        monitor: Metric that selects the best checkpoint.
        mode: Whether ``monitor`` is minimized (``min``) or maximized (``max``).

    Raises:
        UserError: If an argument is out of range, or a validation does not log ``monitor``.
    """

    def __init__(
        self, every_n_steps: Count = 500, monitor: str = "val/loss", mode: Literal["min", "max"] = "min"
    ) -> None:
        self.every_n_steps, self.monitor, self.mode = every_n_steps, monitor, mode
        self.best_score = math.inf if mode == "min" else -math.inf
        self.best_step: int | None = None
        self.line: dict[str, float] | None = None  # log line of this batch that is not yet written
        self.slurm_signal = False  # whether SLURM has announced the time limit to this rank
        self.requeues = False  # whether the job is requeued after the next last.ckpt
        self.validated = False  # whether the run has been validated
        self.point: fixes.ResumePoint | None = None  # after the current batch
        self.last_step = 0  # last step without accumulated gradients
        self.saved_batch: int | None = None  # batch after which last.ckpt was written
        self.restores = False  # whether the next checkpoint gets the progress of ``point``
        self.resume_command: Callable[[Path], str] = "vqlab fit --ckpt_path {}".format

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen for signals, which now stop the run between batches only."""
        self.point, self.saved_batch, self.last_step, self.restores = None, None, trainer.global_step, False
        STOP_SIGNALS.deferred = True
        environment = fixes.slurm_environment(trainer)
        if environment and threading.current_thread() is threading.main_thread():
            number = environment.requeue_signal or signal.SIGUSR1
            signal.signal(number, lambda *_: setattr(self, "slurm_signal", True))  # replaces Lightning's handler

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Save every n steps, and when the training ends or is stopped."""
        step, epochs = trainer.global_step, trainer.max_epochs
        last_epoch = epochs is not None and epochs != -1 and trainer.current_epoch + 1 >= epochs
        last_step = trainer.max_steps != -1 and step >= trainer.max_steps
        ends = trainer.should_stop or last_step or (last_epoch and trainer.is_last_batch)
        if fixes.slurm_environment(trainer) and fixes.is_log_step(trainer, step):
            self.requeues = trainer.strategy.reduce_boolean_decision(self.slurm_signal, all=False) and not ends
            self.slurm_signal = False
        self.point = fixes.ResumePoint(trainer, pl_module, ends)
        if ends and not self.validated and trainer.enable_validation and not self.point.validates:
            trainer.should_stop, trainer.check_val_every_n_epoch = True, None  # then Lightning validates
        due = self.point.complete and step // self.every_n_steps > self.last_step // self.every_n_steps
        if self.point.complete:
            self.last_step = step
        if fixes.validation_follows(trainer):
            return  # a checkpoint follows the validation; a run resumed from an earlier one would skip the validation
        stop_signal = self._stop_signal(trainer)
        if ends or self.requeues or stop_signal or due:
            self.line = pending_line(trainer)
            self._save_last(trainer)
            self.line = None
        if stop_signal:
            raise Stopped(stop_signal)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_asked(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop within the validation, unless there are other ranks, whose numbers of batches may differ."""
        if trainer.world_size == 1:
            self._stop_if_asked(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write no checkpoint before ``on_validation_end``: some callbacks have counted the validation, others not."""
        if self.point is not None:
            self.point.sound = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        if not trainer.sanity_checking or self.monitor.startswith("val/"):  # train/... is not logged yet
            check_monitor(trainer, self.monitor)
        if trainer.sanity_checking:
            return
        self.validated = True
        if self.monitor in trainer.callback_metrics:
            score = float(trainer.callback_metrics[self.monitor])
            if score < self.best_score if self.mode == "min" else score > self.best_score:
                self.best_score, self.best_step = score, trainer.global_step
                self._save(trainer, "best")
        if self.point is None or self.point.complete or self.point.is_last:
            self._save_last(trainer)
        if self.point is not None:
            self.point.sound, self.point.validates = True, False
            self._stop_if_asked(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the state after the last batch, if it still exists, and print how to resume."""
        stopped = isinstance(exception, Stopped)
        if self.point is None or isinstance(exception, NonFiniteError):
            return  # no batch yet; or Health prints from where to resume
        sound = self.point.sound and self.point.complete and fixes.is_between_batches(trainer)
        if sound and (stopped or trainer.world_size == 1) and self.saved_batch != trainer.fit_loop.total_batch_idx:
            self.restores = True
            with nullcontext() if stopped else suppress(UserError):  # a full disk may be the reason of both errors
                self._save_last(trainer)
        last = self._path(trainer, "last")
        if last.exists():
            step = checkpoint_step(last)
            where = "" if step == trainer.global_step else f" from step {step}"
            rank_zero_info(f"stopped at step {trainer.global_step}: resume{where} with {self.resume_command(last)}")

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Correct the progress in a checkpoint that Lightning would write at another moment."""
        if self.point and self.restores:
            self.point.restore(checkpoint)
        elif self.point and trainer.validating and not self.point.validates:
            self.point.count_step(checkpoint)  # after a regular validation the resumed run does so itself

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("best_score", "best_step", "validated", "line")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        names = ("best_score", "best_step", "validated")
        self.best_score, self.best_step, self.validated = (state_dict[name] for name in names)

    def _stop_signal(self, trainer: Trainer) -> int:
        """Return the number of the signal that stops the run at this batch, 0 if none; the same on all ranks."""
        if self.point is None or self.point.is_last or not self.point.complete:
            return 0
        if trainer.world_size == 1:
            return STOP_SIGNALS.asked
        number = torch.tensor(STOP_SIGNALS.asked, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(number, reduce_op="max"))

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if number := self._stop_signal(trainer):
            raise Stopped(number)

    def _save_last(self, trainer: Trainer) -> None:
        self._save(trainer, "last")
        self.saved_batch = trainer.fit_loop.total_batch_idx
        if self.requeues and trainer.is_global_zero:
            queue_again(self._path(trainer, "last"))
        self.requeues = False

    def _save(self, trainer: Trainer, name: str) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self._path(trainer, name))

    @staticmethod
    def _path(trainer: Trainer, name: str) -> Path:
        return Path(trainer.default_root_dir) / "checkpoints" / f"{name}.ckpt"


def queue_again(last: Path) -> None:
    """Ask SLURM to stop and requeue this job, which has written ``last``."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    rank_zero_info(f"SLURM's signal: saved {last}, requeueing job {job}")
    scontrol = shutil.which("scontrol")
    if scontrol is None or subprocess.call([scontrol, "requeue", job]):
        rank_zero_warn(f"scontrol requeue {job} failed: submit the job again with --ckpt_path={last}")


def check_monitor(trainer: Trainer, monitor: str) -> None:
    """Raise UserError if a validation does not log ``monitor``."""
    known = sorted(name for name in trainer.callback_metrics if name.startswith("val/"))
    if known and monitor not in trainer.callback_metrics:
        close = difflib.get_close_matches(monitor, known, n=3, cutoff=0.5) or known
        raise UserError(f"monitor {monitor} is not logged: choose from {', '.join(close)}")


def pending_line(trainer: Trainer) -> dict[str, float] | None:
    """Return the log line of this batch, if any; Lightning writes it after all callbacks, or not if it is killed."""
    if not fixes.is_log_step(trainer, trainer.global_step):
        return None
    step, metrics = fixes.pending_metrics(trainer)
    return {"step": step, "time": round(time.time(), 1), **metrics, "epoch": trainer.current_epoch}


def stored_line(checkpoint: dict[str, Any]) -> dict[str, float] | None:
    """Return the log line that was pending when ``checkpoint`` was written, if any."""
    return checkpoint["callbacks"].get(LastAndBest.__qualname__, {}).get("line")
