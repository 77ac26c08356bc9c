"""SGAN as a user runs it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TRAINER, assert_ranks_hold_the_same, assert_same_runs, fails, fit_and_kill, logged

from vqlab.cli import main

MODEL = ["--model=SGAN", "--model.generator=ConvGenerator", "--model.generator.base_channels=16"]
MODEL += [
    "--model.generator.latent_dim=16",
    "--model.discriminator=ConvFeatures",
    "--model.discriminator.channels=[8,16]",
]
DATA = ["--data=Digits", "--data.image_size=16", "--data.batch_size=32", "--data.labels_per_class=10"]
FIT = ["fit", *MODEL, *DATA, *TRAINER]
OFTEN = ["--trainer.val_check_interval=5", "--trainer.check_val_every_n_epoch=null", "--checkpoint.every_n_steps=4"]
LAST = "checkpoints/last.ckpt"


def run(name):
    return Path("runs/sgan") / name


def test_from_labels_to_pictures():
    main([*FIT, *OFTEN, "--name=it", "--trainer.max_steps=20", "--model.conditional=true", "--ema.decay=0.9"])
    figures = set().union(*logged(run("it") / "metrics.csv"))
    assert {
        "val/acc",
        "val/diversity",
        "val/classes_drawn",
        "train/d_acc",
        "train/g_loss",
        "lr/discriminator",
    } <= figures
    assert {"train/g_loss", "train/p_real", "train/p_fake", "train/fakes_caught", "grad_norm/generator"} <= figures
    assert list((run("it") / "samples").glob("step_*.png"))
    assert list((run("it") / "samples").glob("confusion_*.png"))
    last = str(run("it") / LAST)
    main(["test", f"--ckpt_path={last}"])
    main(["predict", f"--ckpt_path={last}", "--codes=classes.npz"])
    with np.load(run("it") / "classes.npz") as arrays:
        assert arrays["probabilities"].shape == (180, 10)
    main(["sample", last, "--num", "4", "--label", "3", "--out", "drawn.png"])
    assert Path("drawn.png").exists()


def test_a_killed_run_ends_where_an_uninterrupted_one_ends():
    options = [*OFTEN, "--ema.decay=0.9"]
    end = fit_and_kill(run("killed") / LAST, 10, *FIT, *options, "--name=killed") + 12
    main([*FIT, *options, "--name=whole", f"--trainer.max_steps={end}"])
    main([*FIT, *options, f"--ckpt_path={run('killed') / LAST}", f"--trainer.max_steps={end}"])
    assert_same_runs(run("killed"), run("whole"))


def test_two_processes_hold_the_same_weights(tmp_path):
    assert_ranks_hold_the_same(tmp_path, *FIT, "--trainer.max_steps=50", "--data.batch_size=16", "--name=two")
    assert torch.load(run("two") / LAST, weights_only=True)["global_step"] == 50


def test_half_precision():
    main([*FIT, "--name=half", "--trainer.max_steps=5", "--trainer.precision=bf16-mixed"])
    assert logged(run("half") / "metrics.csv")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data.labels_per_class=1000"], "--data.labels_per_class="),
        (["--trainer.gradient_clip_val=1"], "--model.clip_g=1"),
        (["--trainer.accumulate_grad_batches=2"], "raise --data.batch_size"),
        (["--model.objective=wgan"], "objective"),
        (["--model.head=two"], "head"),
    ],
)
def test_mistakes(capsys, options, words):
    assert words in fails(capsys, [*FIT, *options, "--trainer.max_steps=2"])
    assert not Path("runs").exists()
