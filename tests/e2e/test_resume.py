"""A run that was stopped, in whatever way, ends where an uninterrupted one ends."""

import os
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image

import vqlab
from tests.e2e.tiny import (
    FIT,
    NETS,
    TRAINER,
    assert_equal,
    assert_same_log,
    assert_same_runs,
    command,
    fit,
    fit_and_kill,
    logged,
    reached,
    weights,
)
from tests.helpers.forks import Forked
from vqlab.cli.main import main
from vqlab.cli.write_shards import write_shards

STEPS = ["--trainer.val_check_interval=15", "--trainer.check_val_every_n_epoch=null", "--checkpoint.every_n_steps=10"]
RUNS = Path("runs/vqvae")
KILLED = RUNS / "killed"


@pytest.mark.parametrize(
    ("half", "options"),
    [
        (27, ["--ema.decay=0.9", "--data.augment=true"]),  # in mid-epoch, not at a line of the log or a validation
        (45, ["--model.quantizer.codebook_update=loss"]),  # at a validation
    ],
)
def test_two_halves_equal_one_whole(half, options):
    fit("--name=whole", f"--trainer.max_steps={2 * half}", *STEPS, *options)
    fit("--name=halves", f"--trainer.max_steps={half}", *STEPS, *options)
    last = RUNS / "halves/checkpoints/last.ckpt"
    assert reached(last) == half
    fit("--name=halves", f"--trainer.max_steps={2 * half}", *STEPS, *options, f"--ckpt_path={last}")
    assert_same_runs(RUNS / "halves", RUNS / "whole")


def test_going_on_behind_a_validation_that_was_due_only_because_the_run_ended():
    options = ["--trainer.val_check_interval=15", "--trainer.check_val_every_n_epoch=null"]
    fit("--name=whole", "--trainer.max_steps=20", *options)
    fit("--name=halves", "--trainer.max_steps=10", *options)
    fit("--trainer.max_steps=20", *options, "--ckpt_path=runs/vqvae/halves/checkpoints/last.ckpt")
    ours, theirs = (logged(RUNS / name / "metrics.csv") for name in ("halves", "whole"))
    assert [row["step"] for row in ours if "val/loss" in row] == [9, 14]
    ours[1] = {name: value for name, value in ours[1].items() if not name.startswith("val/")}
    assert ours == [pytest.approx(row, rel=1e-6, abs=1e-6) for row in theirs]
    assert_equal(weights(RUNS / "halves"), weights(RUNS / "whole"))


def test_resuming_at_the_end_of_an_epoch():
    epoch = len(vqlab.Digits(image_size=16, batch_size=32).train_dataloader())
    options = ["--trainer.val_check_interval=1.0"]
    fit("--name=whole", "--trainer.max_epochs=2", *options)
    fit("--name=halves", "--trainer.max_epochs=1", *options)
    last = RUNS / "halves/checkpoints/last.ckpt"
    assert reached(last) == epoch
    fit("--name=halves", "--trainer.max_epochs=2", *options, f"--ckpt_path={last}")
    assert_same_runs(RUNS / "halves", RUNS / "whole")


def test_sigkill_in_mid_epoch():
    last = KILLED / "checkpoints/last.ckpt"
    end = fit_and_kill(last, 20, *FIT, "--name=killed", *STEPS, start=command) + 35  # as a user starts it
    fit("--name=whole", f"--trainer.max_steps={end}", *STEPS)
    fit(f"--trainer.max_steps={end}", *STEPS, f"--ckpt_path={last}")
    assert_same_runs(KILLED, RUNS / "whole")


def test_sigkill_in_mid_epoch_of_shards_that_workers_read(tmp_path):
    for number in range(48):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.effect_noise((16, 16), 90).save(tmp_path / "in" / f"{number}.png")
    write_shards(tmp_path / "in", tmp_path / "out", shard_mb=0.004, val_fraction=0.1)
    shards = ["--data=ImageShards", f"--data.path={tmp_path / 'out'}", "--data.image_size=16", "--data.channels=1"]
    args = ["fit", *NETS, *shards, "--data.batch_size=4", "--data.num_workers=2", *TRAINER, *STEPS]
    last = KILLED / "checkpoints/last.ckpt"
    end = fit_and_kill(last, 20, *args, "--name=killed") + 25
    main([*args, "--name=whole", f"--trainer.max_steps={end}"])
    main([*args, f"--trainer.max_steps={end}", f"--ckpt_path={last}"])
    assert_same_runs(KILLED, RUNS / "whole")


def test_sigkill_while_a_checkpoint_is_written():
    """The process kills itself when half of the second last.ckpt is on disk."""
    real, calls = torch.save, []

    def save(obj, file, *args, **kwargs):
        calls.append(1)
        if len(calls) < 2:
            return real(obj, file, *args, **kwargs)
        file.write(b"half of a checkpoint")
        file.flush()
        return os.kill(os.getpid(), signal.SIGKILL)

    options = ["--name=killed", "--trainer.max_steps=100", *STEPS]
    process = Forked(*FIT, *options, before=lambda: setattr(torch, "save", save))
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    last = KILLED / "checkpoints/last.ckpt"
    assert reached(last) == 10
    assert [p.read_bytes() for p in last.parent.glob(".best.ckpt.partial")] == [b"half of a checkpoint"]
    fit("--name=whole", "--trainer.max_steps=40", *STEPS)
    fit("--trainer.max_steps=40", *STEPS, f"--ckpt_path={last}")
    assert_same_log(KILLED, RUNS / "whole")
    assert not list(last.parent.glob(".*.partial")), "the torn file of the killed run is swept away"


def test_changed_settings_are_named_and_win(caplog):
    fit("--name=run", "--trainer.max_steps=10", *STEPS)
    last = "runs/vqvae/run/checkpoints/last.ckpt"
    fit("--trainer.max_steps=20", f"--ckpt_path={last}", "--model.lr=0.0005")
    assert "model.lr was 0.002 in the checkpoint and is 0.0005 now; the new value wins" in caplog.text
    rates = [row["lr/autoencoder"] for row in logged("runs/vqvae/run/metrics.csv") if "lr/autoencoder" in row]
    assert rates == pytest.approx([0.002, 0.002, 0.0005, 0.0005])
