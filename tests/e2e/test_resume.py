"""A run that is resumed after its end or after SIGKILL equals an uninterrupted run."""

import os
import signal
from pathlib import Path

import pytest
import torch

from tests.e2e.tiny import FIT, assert_equal, assert_same_runs, fails, fit, logged, reached, weights
from tests.helpers.forks import Forked

STEPS = ["--trainer.val_check_interval=15", "--trainer.check_val_every_n_epoch=null", "--checkpoint.every_n_steps=10"]
MUON = "--model.optimization.kind=muon"
RUNS = Path("runs/vqvae")
KILLED = RUNS / "killed"
LAST = KILLED / "checkpoints/last.ckpt"


@pytest.mark.parametrize(
    ("limit", "half", "options"),
    [
        ("steps", 18, [*STEPS, "--ema.decay=0.9", "--data.augment=true"]),  # not at a log line or a validation
        ("steps", 15, [*STEPS, "--model.quantizer.codebook_update=loss", MUON]),  # at a validation
        ("epochs", 1, ["--trainer.val_check_interval=1.0", "--data.batch_size=128"]),  # at the end of an epoch
    ],
)
def test_run_in_two_halves_equals_a_whole_run(limit, half, options):
    fit("--name=whole", f"--trainer.max_{limit}={2 * half}", *options)
    fit("--name=halves", f"--trainer.max_{limit}={half}", *options)
    last = RUNS / "halves/checkpoints/last.ckpt"
    assert 2 * reached(last) == reached(RUNS / "whole/checkpoints/last.ckpt")
    fit("--name=halves", f"--trainer.max_{limit}={2 * half}", *options, f"--ckpt_path={last}")
    ours, theirs = (logged(RUNS / name / "metrics.csv") for name in ("halves", "whole"))
    if half == 18:  # the first half ends with a validation that the whole run does not have
        (extra,) = [row for row in ours if row["step"] == 17]
        assert "val/loss" in extra
        ours.remove(extra)
    assert ours == [pytest.approx(row, rel=1e-6, abs=1e-6) for row in theirs]
    assert_equal(weights(RUNS / "halves"), weights(RUNS / "whole"))


def test_resume_after_a_validation_at_the_end_of_a_run():
    """The uninterrupted run has no validation at this step."""
    options = ["--trainer.val_check_interval=15", "--trainer.check_val_every_n_epoch=null"]
    fit("--name=whole", "--trainer.max_steps=20", *options)
    fit("--name=halves", "--trainer.max_steps=10", *options)
    fit("--trainer.max_steps=20", *options, "--ckpt_path=runs/vqvae/halves/checkpoints/last.ckpt")
    ours, theirs = (logged(RUNS / name / "metrics.csv") for name in ("halves", "whole"))
    assert [row["step"] for row in ours if "val/loss" in row] == [9, 14, 19]
    ours[1] = {name: value for name, value in ours[1].items() if not name.startswith("val/")}
    assert ours == [pytest.approx(row, rel=1e-6, abs=1e-6) for row in theirs]
    assert_equal(weights(RUNS / "halves"), weights(RUNS / "whole"))


def test_resumed_run_keeps_its_kind_of_optimizer(capsys):
    fit("--name=adam", "--trainer.max_steps=2")
    error = fails(capsys, [*FIT, MUON, "--trainer.max_steps=4", "--ckpt_path=runs/vqvae/adam/checkpoints/last.ckpt"])
    assert "optimization.kind=adam" in error
    assert error.endswith("got muon")


def test_sigkill_while_a_checkpoint_is_written():
    """The process kills itself when half of the second checkpoint is on disk."""
    real, calls = torch.save, []

    def save(obj, file, *args, **kwargs):
        calls.append(1)
        if len(calls) < 2:
            return real(obj, file, *args, **kwargs)
        file.write(b"half of a checkpoint")
        file.flush()
        return os.kill(os.getpid(), signal.SIGKILL)

    options = ["--name=killed", "--trainer.max_steps=100", *STEPS]
    assert Forked(*FIT, *options, before=lambda: setattr(torch, "save", save)).end()[0] == -signal.SIGKILL
    assert reached(LAST) == 10
    assert [p.read_bytes() for p in LAST.parent.glob(".*.partial")] == [b"half of a checkpoint"]
    fit("--name=whole", "--trainer.max_steps=30", *STEPS)
    fit("--trainer.max_steps=30", *STEPS, f"--ckpt_path={LAST}")
    assert_same_runs(KILLED, RUNS / "whole")
    assert not list(LAST.parent.glob(".*.partial")), "the resumed run removes the partial file"


def test_changed_settings_are_reported_and_used(caplog):
    fit("--name=run", "--trainer.max_steps=10", *STEPS)
    fit("--trainer.max_steps=20", "--ckpt_path=runs/vqvae/run/checkpoints/last.ckpt", "--model.lr=0.0005")
    assert "model.lr was 0.002 in the checkpoint and is 0.0005 now" in caplog.text
    rates = [row["lr/autoencoder"] for row in logged("runs/vqvae/run/metrics.csv") if "lr/autoencoder" in row]
    assert rates == pytest.approx([0.002, 0.002, 0.0005, 0.0005])
