"""VQ-GAN as a user types it: two processes, kill and resume, mistakes."""

from pathlib import Path

import pytest
import torch
from tiny import DATA, TRAINER, command, fails, fit_and_kill, logged
from tiny import NETS as VQVAE_NETS

from vqlab.cli import main

NETS = [
    "--model=VQGAN",
    *VQVAE_NETS[1:],
    "--model.discriminator=PatchGAN",
    "--model.discriminator.num_layers=2",
    "--model.discriminator.base_channels=32",
    "--model.perceptual_weight=0",
    "--model.disc_start=4",
    "--model.lr=0.0005",
]
FIT = ["fit", *NETS, *DATA, *TRAINER]
EVERY_FIVE = ["--trainer.val_check_interval=5", "--trainer.check_val_every_n_epoch=null"]
VALIDATED = ("val/loss", "val/rec_loss", "val/psnr")


def metrics(run):
    return logged(f"runs/vqgan/{run}/metrics.csv")


REGULARISED = ["--model.lecam_weight=0.1", "--model.r1_weight=0.1", "--model.disc_warmup=2"]


def state(run):
    return torch.load(f"runs/vqgan/{run}/checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize("options", [[], REGULARISED])
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


def test_a_killed_run_ends_as_an_uninterrupted_one():
    steps = [*EVERY_FIVE, "--checkpoint.every_n_steps=7", "--ema.decay=0.9", "--model.lecam_weight=0.1"]
    last = Path("runs/vqgan/killed/checkpoints/last.ckpt")
    end = fit_and_kill(last, 14, *FIT, "--name=killed", *steps) + 12
    main([*FIT, "--name=whole", f"--trainer.max_steps={end}", *steps])
    main([*FIT, f"--trainer.max_steps={end}", *steps, f"--ckpt_path={last}"])
    assert len(metrics("killed")) == len(metrics("whole"))
    for row, expected in zip(metrics("killed"), metrics("whole"), strict=True):
        assert row == pytest.approx(expected, rel=1e-6, abs=1e-6)
    ours, theirs = state("killed")["state_dict"], state("whole")["state_dict"]
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trainer.gradient_clip_val=1"], ["--model.clip_g=1.0", "--trainer.gradient_clip_val"]),
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
