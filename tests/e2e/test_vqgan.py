"""VQ-GAN as a user types it."""

from pathlib import Path

import pytest
import torch

from tests.e2e.systems import SYSTEMS
from tests.e2e.tiny import TRAINER, fails
from vqlab.cli.main import main

FIT = ["fit", *SYSTEMS["VQGAN"], *TRAINER]


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
