"""Access to Lightning's private attributes, and the list of vqlab's workarounds for Lightning 2.6.

A workaround can be removed once Lightning does the same ("source" is a file of ``lightning/pytorch``):

| Here | Lightning 2.6 | Upstream |
|---|---|---|
| :func:`count_step` | ``global_step`` and ``max_steps`` count each optimizer's steps | issue 17958 |
| ``callbacks.ema.EMA`` | ``EMAWeightAveraging`` relies on that counter, copies an average that was never updated over the trained weights, and leaves the average in the model after an error in a validation | source callbacks/weight_averaging.py |
| ``callbacks.checkpoints``, :class:`ResumePoint` | a run resumed from a checkpoint of a batch with a validation skips, repeats or shortens it | issues 19549, 20288 |
| ``callbacks.checkpoints.pending_line`` | the last log line before a checkpoint is lost if the run is killed right after it | source loops/training_epoch_loop.py |
| ``callbacks.checkpoints``, on SLURM | checkpoints are written inside the signal handler, in the middle of a batch | issue 21406 |
| :func:`leave_sigterm_alone` | SIGTERM ends with status 0 | issue 19916 |
| :class:`AtomicCheckpointIO` | a checkpoint is copied in memory first, and errors of permission are swallowed | issue 21800 |
| ``training.loggers.csv.CSVLog`` | ``CSVLogger`` deletes the file that it finds | pull request 19446 |
| ``callbacks.always.LearningRates`` | ``LearningRateMonitor`` logs separate lines | source callbacks/lr_monitor.py |
| ``callbacks.always.Progress`` | the bar shows ``v_num``, and an error message continues its line | source callbacks/progress/tqdm_progress.py |
"""  # noqa: E501

from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment
from lightning.pytorch.plugins.io import TorchCheckpointIO

from vqlab.atomic_io import write_atomic


class AtomicCheckpointIO(TorchCheckpointIO):
    """Replace a checkpoint by one rename, so that a killed run or a full disk keeps the old one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path`` atomically."""
        with write_atomic(path) as file:
            torch.save(checkpoint, file)


def leave_sigterm_alone(trainer: lightning.Trainer) -> None:
    """Disable Lightning's SIGTERM handler, which ends with status 0 and without a checkpoint; see ``STOP_SIGNALS``."""
    trainer._signal_connector._sigterm_notifier_fn = lambda *_: None  # type: ignore[method-assign]


def count_step(trainer: lightning.Trainer) -> None:
    """Increment ``global_step`` of a model with manual optimization."""
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    progress.increment_ready()
    progress.increment_completed()


def training_batch_size(trainer: Any) -> int | None:
    """Return the ``batch_size`` of the DataModule or DataLoader, or None, without loading the data."""
    return getattr(trainer.datamodule or trainer.fit_loop._data_source.instance, "batch_size", None)


def accumulates(trainer: lightning.Trainer) -> bool:
    """Whether the Trainer accumulates the gradients of the current batch without a step."""
    return trainer.fit_loop._should_accumulate()


def is_log_step(trainer: lightning.Trainer, steps_done: int) -> bool:
    """Whether the current batch, the last of ``steps_done`` steps, is logged."""
    interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return interval > 0 and steps_done % interval == 0 and not accumulates(trainer)


def pending_metrics(trainer: lightning.Trainer) -> tuple[int, dict[str, float]]:
    """Return step and metrics of the log line that Lightning writes after all callbacks of this batch."""
    metrics = trainer._logger_connector.metrics["log"]
    return trainer.fit_loop.epoch_loop._batches_that_stepped, {name: float(value) for name, value in metrics.items()}


def validation_follows(trainer: lightning.Trainer) -> bool:
    """Whether a validation follows the current batch."""
    batches = trainer.fit_loop._data_fetcher
    return batches is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(batches)


def is_between_batches(trainer: lightning.Trainer) -> bool:
    """Whether the last batch is complete and no other has started."""
    total = trainer.fit_loop.epoch_loop.batch_progress.total
    return total.ready == total.completed  # type: ignore[attr-defined]


def cluster_environment(trainer: lightning.Trainer) -> ClusterEnvironment:
    """Return the environment that started the processes."""
    return trainer._accelerator_connector.cluster_environment


def slurm_environment(trainer: lightning.Trainer) -> SLURMEnvironment | None:
    """Return the SLURM environment if its jobs are requeued automatically, otherwise None."""
    environment = cluster_environment(trainer)
    return environment if isinstance(environment, SLURMEnvironment) and environment.auto_requeue else None


def close_bars(progress_bar: Any) -> None:
    """Close the bars of a ``TQDMProgressBar``, so that the next output starts on a new line."""
    for stage in ("train", "val", "test", "predict"):
        if (bar := getattr(progress_bar, f"_{stage}_progress_bar")) is not None:
            bar.close()


class ResumePoint:
    """Counters of the training loops right after a batch, for a checkpoint that is written later.

    With later counters, Lightning would skip or repeat a log line, the end of an epoch or a validation on resume.
    """

    def __init__(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, is_last: bool) -> None:
        loop = trainer.fit_loop
        self.is_last = is_last  # the last batch of the run
        self.sound = True  # whether a checkpoint may be written
        stop, trainer.should_stop = trainer.should_stop, False
        self.validates = validation_follows(trainer)  # because of its interval, not because the training ends
        trainer.should_stop = stop
        self._epoch = trainer.current_epoch
        self._batches_that_stepped = loop.epoch_loop._batches_that_stepped
        self._steps = not accumulates(trainer)
        self.complete = self._steps and getattr(pl_module, "optimizer_stepped", True)  # no accumulated gradients
        self._loops = loop.state_dict() if trainer.is_last_batch and not self.validates else None
        self._loaders = loop._combined_loader._state_dicts() if loop._combined_loader else []

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Write these counters into ``checkpoint``."""
        if self._loops is not None:
            checkpoint["loops"]["fit_loop"], checkpoint["epoch"] = self._loops, self._epoch
            return
        loops = checkpoint["loops"]["fit_loop"]
        loops["state_dict"]["combined_loader"] = self._loaders  # the loader may have advanced
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] = self._batches_that_stepped
        if self.validates:
            started = {"ready": 1, "started": 1, "processed": 0, "completed": 0}  # resumes with the validation
            progress = {"total": started, "current": dict.fromkeys(started, 0), "is_last_batch": False}
            loops["epoch_loop.val_loop.batch_progress"] = progress
        else:
            self.count_step(checkpoint)

    def count_step(self, checkpoint: dict[str, Any]) -> None:
        """Count the batch in the step of the next log line."""
        checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"] += self._steps
