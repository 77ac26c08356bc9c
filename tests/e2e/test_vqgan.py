"""VQ-GAN as a user types it: two processes, mistakes."""

from pathlib import Path

import pytest
import torch

from tests.e2e.systems import SYSTEMS
from tests.e2e.tiny import TRAINER, command, fails, logged
from vqlab.cli.main import main

FIT = ["fit", *SYSTEMS["VQGAN"], *TRAINER]
EVERY_FIVE = ["--trainer.val_check_interval=5", "--trainer.check_val_every_n_epoch=null"]
VALIDATED = ("val/loss", "val/rec_loss", "val/psnr")


def metrics(run):
    return logged(f"runs/vqgan/{run}/metrics.csv")


REGULARISED = ["--model.r1_weight=0.1", "--model.disc_warmup=2"]


def state(run):
    return torch.load(f"runs/vqgan/{run}/checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize("options", [["--model.lecam_weight=0"], REGULARISED])
def test_two_processes_equal_one(options):
    options = ["--trainer.max_steps=20", *EVERY_FIVE, *options]
    process = command(*FIT, "--trainer.devices=2", "--name=two", *options, "--data.batch_size=16")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    main([*FIT, "--name=one", *options, "--data.batch_size=32"])
    one, two = metrics("one"), metrics("two")
    assert len(one) == len(two) == 4
    for row, expected in zip(two, one, strict=True):
        for name in VALIDATED:
            assert row[name] == pytest.approx(expected[name], rel=1e-4), name
    ours, theirs = state("two")["state_dict"], state("one")["state_dict"]
    for name, value in theirs.items():
        if "usage" not in name:
            torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    moved = state("two")["optimizer_states"]
    assert len(moved) == 2
    assert all(state["step"] > 10 for state in moved[1]["state"].values()), "the discriminator took no part"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trainer.gradient_clip_val=1"], ["--model.clip_g=1 ", "--trainer.gradient_clip_val"]),
        (["--trainer.accumulate_grad_batches=2"], ["--model.accumulate=2"]),
        (["--model.discriminator.num_layers=4"], ["too small", "num_layers"]),
        (["--model.perceptual_weight=1", "--model.perceptual.backbone=nothing.pth"], ["nothing.pth"]),
        (["--model.perceptual_weight=1", "--model.perceptual.net=alex"], ["16x16", "too small for LPIPS"]),
        (["--model.adversarial=vanilla"], ["hinge", "vanilla"]),
    ],
)
def test_a_mistake_gets_one_line(capsys, options, words):
    complaint = fails(capsys, [*FIT, "--name=bad", *options])
    for word in words:
        assert word in complaint
    assert not Path("runs/vqgan/bad/config.yaml").exists()
    assert not Path("runs/vqgan/bad/checkpoints").exists()


def test_a_checkpoint_of_a_vqgan_comes_back(capsys):
    import vqlab

    main([*FIT, "--name=kept", "--trainer.max_steps=6"])
    model = vqlab.load("runs/vqgan/kept/checkpoints/last.ckpt")
    assert type(model).__name__ == "VQGAN"
    x = torch.rand(2, 1, 16, 16)
    assert model.reconstruct(x).shape == x.shape
    main(["validate", "--ckpt_path=runs/vqgan/kept/checkpoints/last.ckpt"])
    assert "val/psnr" in capsys.readouterr().out
