"""A SLURM job whose time is nearly up is saved and queued again."""

import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from types import FrameType

import lightning
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from vqlab.training.log_interval import is_log_step


class Requeue:
    """Listens for SLURM's signal that a job's time is nearly up (``--signal=SIGUSR1@120``), and queues the job again.

    It stands in for Lightning's own handler, which saves at once, in mid-batch as well, between the steps of two
    players, and under a name of its own, ``hpc_ckpt_1.ckpt``, that no later ``--ckpt_path`` knows of. This one only
    remembers the signal. The ranks, which it reaches at different batches, agree on it at the next line of the log.

    Outside of SLURM, and where a plugin ``SLURMEnvironment(auto_requeue=False)`` says no, nothing is listened for.
    """

    def __init__(self) -> None:
        self.listening = self.asked = False

    def listen(self, trainer: lightning.Trainer) -> None:
        """Take the place of the handler that Lightning sets before a training, and puts back after it."""
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            self.listening = True
            if threading.current_thread() is threading.main_thread():
                signal.signal(environment.requeue_signal or signal.SIGUSR1, self._remember)

    def is_due(self, trainer: lightning.Trainer) -> bool:
        """Whether the run is to be saved at the end of this batch, because a rank got the signal: the same on all."""
        if not self.listening or not is_log_step(trainer, trainer.global_step):
            return False
        asked = trainer.strategy.reduce_boolean_decision(self.asked, all=False)
        self.asked = False
        return asked

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def queue_again(last: Path) -> None:
    """Ask SLURM to stop this job and to queue it again, now that ``last`` holds all that it did."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    rank_zero_info(f"SLURM's signal: saved {last}, queueing job {job} again")
    scontrol = shutil.which("scontrol")
    if scontrol is None or subprocess.call([scontrol, "requeue", job]):
        rank_zero_warn(f"scontrol requeue {job} failed: send the job again with --ckpt_path={last}")
