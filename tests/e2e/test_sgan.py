"""SGAN as a user runs it."""

from pathlib import Path

import numpy as np
import pytest

from tests.e2e.systems import OFTEN, SYSTEMS
from tests.e2e.tiny import TRAINER, fails, logged
from vqlab.cli.main import main

FIT = ["fit", *SYSTEMS["SGAN"], *TRAINER]
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
