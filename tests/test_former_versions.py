"""Checkpoints and run folders of vqlab 0.1, before modules and arguments were moved."""

import shutil
from pathlib import Path

import pytest
import torch

import vqlab
from vqlab.cli.main import main

RUNS = Path(__file__).parent / "helpers/runs_of_0_1"
OUTPUTS = torch.load(RUNS / "outputs.pt", weights_only=True)


@pytest.mark.parametrize("name", OUTPUTS)
def test_checkpoint_gives_the_same_outputs(name):
    model = vqlab.load(RUNS / name / "old/checkpoints/last.ckpt")
    x = OUTPUTS[name]["x"]
    found = model.translate(x, 0) if name == "fontgan" else model.reconstruct(x)
    torch.testing.assert_close(found, OUTPUTS[name]["y"])


def test_arguments_have_new_places():
    vqgan = vqlab.load(RUNS / "vqgan/old/checkpoints/last.ckpt")
    assert (vqgan.optimization.clip, vqgan.optimization.schedule.kind) == (5, "cosine")
    assert (vqgan.adversarial.settings.disc_start, vqgan.adversarial.settings.lecam_weight) == (2, 0.1)
    jsa = vqlab.load(RUNS / "jsa/old/checkpoints/last.ckpt")
    assert (jsa.sampler.num_mis_steps, jsa.optimization.proposal_lr, jsa.images.size) == (3, 0.001, 8)
    font = vqlab.load(RUNS / "fontgan/old/checkpoints/last.ckpt")
    assert (font.optimization.kind, font.optimization.disc_lr) == ("rmsprop", 0.0001)
    assert type(font.discriminator) is vqlab.GlyphDiscriminator


@pytest.mark.parametrize("config", [["--config={}/config.yaml"], []], ids=["config", "checkpoint only"])
@pytest.mark.parametrize("name", ["vqgan", "jsa"])
def test_run_is_resumed(name, config):
    shutil.copytree(RUNS / name, Path("runs") / name)
    last = Path("runs") / name / "old/checkpoints/last.ckpt"
    config = [option.format(last.parents[1]) for option in config]
    main(["fit", *config, f"--ckpt_path={last}", "--trainer.max_steps=6"])
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["global_step"] == 6
    assert checkpoint["hyper_parameters"]["_class_path"] == f"vqlab.{name.upper()}"
