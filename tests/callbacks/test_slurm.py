"""A job that SLURM stops and starts again, imitated on one machine."""

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.systems import SYSTEMS
from tests.e2e.tiny import TRAINER, assert_same_runs, logged, reached
from tests.helpers.forks import fork, status_of
from vqlab.cli.main import main

FIT = ["fit", *SYSTEMS["VQGAN"], *TRAINER, "--trainer.max_steps=20"]
SIGNALS = """
import os, signal, lightning

class TimeIsUp(lightning.Callback):
    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == 7:  # in mid-batch, between the steps of two players
            os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.fixture
def job(monkeypatch, tmp_path):
    """The environment of one task, an scontrol that notes what it is asked for and stops the job, and a signal."""
    job = {"JOB_ID": 4242, "JOB_NAME": "train", "NTASKS": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "NNODES": 1}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text('#!/bin/sh\necho "$@" > asked.txt\nkill -9 $PPID\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "signals.py").write_text(SIGNALS)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(("array", "validate_every"), [(False, 4), pytest.param(True, 5, marks=pytest.mark.slow)])
def test_a_job_whose_time_is_up_goes_on_where_it_was(job, monkeypatch, array, validate_every):
    if array:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4200")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    fit = [*FIT, f"--trainer.val_check_interval={validate_every}"]
    call = [*fit, "--name=job", "--trainer.callbacks+=signals.TimeIsUp"]
    folder = Path("runs/vqgan/job")
    assert status_of(fork(main, call)) == signal.SIGKILL
    assert Path("asked.txt").read_text() == ("requeue 4200_3\n" if array else "requeue 4242\n")
    assert reached(folder / "checkpoints/last.ckpt") == 10, "at the next line of the log, between two batches"
    written = logged(folder / "metrics.csv")[-1]["step"]
    assert written == (7 if validate_every == 4 else 9), "a checkpoint comes before the line of its batch"
    assert not list(Path().rglob("hpc_ckpt*"))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    main(call)
    main([*fit, "--name=whole", "--runs=others"])
    assert_same_runs(folder, Path("others/vqgan/whole"))
