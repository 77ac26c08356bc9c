"""A training stopped by a signal or an error is saved, prints how to resume, and equals a whole run when resumed."""

import os
import signal
from pathlib import Path

import pytest

import vqlab
from tests.e2e.systems import OFTEN, SYSTEMS
from tests.e2e.tiny import FIT, TRAINER, assert_same_runs, fails, fit, logged, reached
from tests.helpers import stops
from tests.helpers.forks import fork, status_of
from tests.helpers.stops import fit_and_stop
from vqlab.cli.main import main
from vqlab.data.resumable import ResumableLoader

INT, TERM, ERROR = signal.SIGINT, signal.SIGTERM, RuntimeError("a disk is gone")
SLOW = pytest.mark.slow
VQGAN = ["fit", *SYSTEMS["VQGAN"], *TRAINER, *OFTEN, "--ema.decay=0.9", "--plateau.patience=1"]
VQGAN += ["--trainer.limit_train_batches=12", "--trainer.limit_val_batches=3", "--trainer.max_steps=14"]
LAST = Path("runs/vqgan/stopped/checkpoints/last.ckpt")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of an uninterrupted run."""
    runs = tmp_path_factory.mktemp("runs")
    main([*VQGAN, "--name=whole", f"--runs={runs}"])
    return runs / "vqgan" / "whole"


@pytest.mark.parametrize(
    ("hook", "step", "what", "saved"),
    [
        ("on_before_optimizer_step", 6, INT, 7),  # between the steps of generator and discriminator
        ("on_validation_batch_end", 10, TERM, 10),
        ("on_validation_batch_end", 10, ERROR, 10),
        ("on_train_batch_end", 7, ERROR, 5),  # this batch is incomplete: only some callbacks have counted it
        pytest.param("on_train_batch_start", 11, INT, 12, marks=SLOW),  # the last one of an epoch
        pytest.param("on_train_epoch_start", 12, ERROR, 12, marks=SLOW),
    ],
)
def test_signal_or_error_loses_no_batch(whole, caplog, hook, step, what, saved):
    caplog.set_level("INFO")
    assert fit_and_stop(hook, step, what, *VQGAN) == (what if what is ERROR else 128 + what)
    assert f"with vqlab fit --config {LAST.parents[1]}/config.yaml --ckpt_path {LAST}" in caplog.text
    assert reached(LAST) == saved
    main(["fit", f"--config={LAST.parents[1]}/config.yaml", f"--ckpt_path={LAST}", "--trainer.callbacks=null"])
    assert_same_runs(LAST.parents[1], whole)
    assert signal.getsignal(TERM) == signal.SIG_DFL


def test_error_of_data_loading_loses_no_batch(whole, monkeypatch):
    read, count = ResumableLoader.__iter__, []

    def fails_once(self):
        for item in read(self):
            count.append(1)
            if len(count) == 7:
                raise ERROR
            yield item

    monkeypatch.setattr(ResumableLoader, "__iter__", fails_once)
    with pytest.raises(RuntimeError, match="a disk is gone"):
        main([*VQGAN, "--name=stopped"])
    assert reached(LAST) == 6
    main(["fit", f"--ckpt_path={LAST}"])
    assert_same_runs(LAST.parents[1], whole)


@pytest.mark.parametrize(
    ("options", "saved"),
    [
        ([*VQGAN, "--model.accumulate=3", "--model.adversarial.alternate=false"], 9),
        ([*FIT, "--trainer.accumulate_grad_batches=3", "--trainer.val_check_interval=11"], 7),
    ],
)
def test_signal_stops_after_all_batches_of_accumulated_gradients(options, saved):
    options = [*options, "--trainer.max_steps=14"]
    assert fit_and_stop("on_train_batch_start", 6, INT, *options) == 130
    (last,) = Path("runs").glob("*/stopped/checkpoints/last.ckpt")
    assert reached(last) == saved
    main(["fit", f"--config={last.parents[1]}/config.yaml", f"--ckpt_path={last}", "--trainer.callbacks=null"])
    main([*options, "--name=whole"])
    assert_same_runs(last.parents[1], last.parents[2] / "whole")


@pytest.mark.parametrize("hook", ["setup", "on_train_start"])
def test_signal_before_the_first_step_leaves_no_files(hook, monkeypatch):
    monkeypatch.setattr(stops.Stop, hook, lambda *args, **kwargs: os.kill(os.getpid(), TERM), raising=False)
    assert fit_and_stop("on_exception", 0, 0, *FIT, "--trainer.max_steps=4") == 143
    assert not Path("runs").exists()


def test_ctrl_c_ends_an_evaluation_without_a_traceback(capsys, monkeypatch):
    fit("--name=run", "--trainer.max_steps=2")
    monkeypatch.setattr(vqlab.VQVAE, "test_step", lambda *args: os.kill(os.getpid(), INT))
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["test", "--ckpt_path=runs/vqvae/run/checkpoints/last.ckpt"])
    assert stopped.value.code == 130
    assert "Traceback" not in capsys.readouterr().err


def test_run_without_a_checkpoint_is_overwritten_only_with_the_option(capsys):
    assert fit_and_stop("on_before_optimizer_step", 1, ERROR, *FIT, "--trainer.max_steps=4") is ERROR
    call = [*FIT, "--name=stopped", "--trainer.max_steps=4"]
    assert "no last.ckpt" in fails(capsys, call)
    main([*call, "--overwrite"])
    last = Path("runs/vqvae/stopped/checkpoints/last.ckpt")
    assert reached(last) == 4
    assert "leave out one of them" in fails(capsys, [*call, "--overwrite", f"--ckpt_path={last}"])


@pytest.mark.parametrize(("array", "validate_every"), [(False, 4), pytest.param(True, 5, marks=SLOW)])
def test_slurm_job_is_saved_and_requeued_before_its_time_limit(monkeypatch, tmp_path, array, validate_every):
    """``scontrol`` records its arguments and kills the job."""
    job = {"JOB_ID": 4242, "JOB_NAME": "train", "NTASKS": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "NNODES": 1}
    for name, value in {**job, **({"ARRAY_JOB_ID": 4200, "ARRAY_TASK_ID": 3} if array else {})}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    Path("scontrol").write_text('#!/bin/sh\necho "$@" > requeued.txt\nkill -9 $PPID\n')
    Path("scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    options = ["fit", *SYSTEMS["VQGAN"], *TRAINER, "--trainer.max_steps=20"]
    options += [f"--trainer.val_check_interval={validate_every}"]
    # The signal comes between the steps of generator and discriminator.
    job = fork(fit_and_stop, "on_before_optimizer_step", 7, signal.SIGUSR1, *options)
    assert status_of(job) == signal.SIGKILL
    assert Path("requeued.txt").read_text() == ("requeue 4200_3\n" if array else "requeue 4242\n")
    assert reached(LAST) == 10, "saved at the next log line"
    written = logged(LAST.parents[1] / "metrics.csv")[-1]["step"]
    assert written == (7 if validate_every == 4 else 9), "the checkpoint is written before the log line of its batch"
    assert not list(Path().rglob("hpc_ckpt*"))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert fit_and_stop("on_before_optimizer_step", 100, 0, *options) == 0, "the same command resumes the run"
    main([*options, "--name=whole", "--runs=others"])
    assert_same_runs(LAST.parents[1], "others/vqgan/whole")
