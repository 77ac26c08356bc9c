"""Checkpoints and run folders that vqlab 0.1 wrote before its modules and arguments moved."""

import shutil
from pathlib import Path

import pytest
import torch

import vqlab
from vqlab.cli.main import main

RUNS = Path(__file__).parent / "helpers/runs_of_0_1"
OUTPUTS = torch.load(RUNS / "outputs.pt", weights_only=True)


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_checkpoint_gives_the_model_that_was_trained(name):
    model = vqlab.load(RUNS / name / "old/checkpoints/last.ckpt")
    x = OUTPUTS[name]["x"]
    found = model.translate(x, 0) if name == "fontgan" else model.reconstruct(x)
    torch.testing.assert_close(found, OUTPUTS[name]["y"])


def test_its_arguments_have_their_new_places():
    vqgan = vqlab.load(RUNS / "vqgan/old/checkpoints/last.ckpt")
    assert (vqgan.optimization.clip, vqgan.optimization.schedule.kind) == (5, "cosine")
    assert (vqgan.adversarial.settings.disc_start, vqgan.adversarial.settings.lecam_weight) == (2, 0.1)
    jsa = vqlab.load(RUNS / "jsa/old/checkpoints/last.ckpt")
    assert (jsa.sampler.num_mis_steps, jsa.optimization.proposal_lr, jsa.images.size) == (3, 0.001, 8)
    font = vqlab.load(RUNS / "fontgan/old/checkpoints/last.ckpt")
    assert (font.optimization.kind, font.optimization.disc_lr) == ("rmsprop", 0.0001)
    assert type(font.discriminator) is vqlab.GlyphDiscriminator


@pytest.mark.parametrize("config", [["--config={}/config.yaml"], []], ids=["its config", "the checkpoint alone"])
@pytest.mark.parametrize("name", ["vqgan", "jsa"])
def test_a_run_folder_goes_on(name, config):
    shutil.copytree(RUNS / name, Path("runs") / name)
    last = Path("runs") / name / "old/checkpoints/last.ckpt"
    config = [option.format(last.parents[1]) for option in config]
    main(["fit", *config, f"--ckpt_path={last}", "--trainer.max_steps=6"])
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["global_step"] == 6
    assert checkpoint["hyper_parameters"]["_class_path"] == f"vqlab.{name.upper()}"
