"""Saves a SLURM job whose time is nearly up and queues it again."""

import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import lightning
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from vqlab.training.lightning_fixes import is_log_step, slurm_environment


class Requeue:
    """Waits for SLURM's signal that a job's time is nearly up (``--signal=SIGUSR1@120``).

    Lightning's handler saves in the middle of a batch, in a file that no later ``--ckpt_path`` names. This one only
    records the signal; the ranks, which it reaches at different batches, agree on it at the next line of the log. It
    does nothing outside of SLURM or if the Trainer has the plugin ``SLURMEnvironment(auto_requeue=False)``.
    """

    def __init__(self) -> None:
        self.active = self.received = False

    def listen(self, trainer: lightning.Trainer) -> None:
        """Replace the handler that Lightning sets before a training and removes after it."""
        if environment := slurm_environment(trainer):
            self.active = True
            if threading.current_thread() is threading.main_thread():
                signal.signal(environment.requeue_signal or signal.SIGUSR1, lambda *_: setattr(self, "received", True))

    def is_due(self, trainer: lightning.Trainer) -> bool:
        """Whether a rank has received the signal, at a line of the log: the same on all ranks."""
        if not self.active or not is_log_step(trainer, trainer.global_step):
            return False
        received = trainer.strategy.reduce_boolean_decision(self.received, all=False)
        self.received = False
        return received


def queue_again(last: Path) -> None:
    """Ask SLURM to stop this job and to queue it again, after ``last`` was written."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    rank_zero_info(f"SLURM's signal: saved {last}, queueing job {job} again")
    scontrol = shutil.which("scontrol")
    if scontrol is None or subprocess.call([scontrol, "requeue", job]):
        rank_zero_warn(f"scontrol requeue {job} failed: submit the job again with --ckpt_path={last}")
