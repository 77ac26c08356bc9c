"""Configuration files among the arguments, and options of version 0.1."""

from pathlib import Path

import pytest

from tests.helpers.refusal import refused
from vqlab.cli import arguments
from vqlab.cli.arguments import read_configs, with_builtin_configs
from vqlab.cli.compat import with_current_options


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (b"name: \xff", "not valid YAML: 'utf-8' codec can't decode byte 0xff"),
        (b"", "must be a mapping such as model: VQVAE, got None"),
        (b"- VQVAE\n", "got ['VQVAE']"),
        (b"trainer:\n\tmax_steps: 1\n", "not valid YAML: line 2: found character that cannot start any token"),
        (b"model: {class_path: VQVAE\ndata: Digits\n", "not valid YAML: line 2"),
        (b"seed_everything: 1\nseed_everything: 2\n", "there twice"),
        (b"base: configs/vqvae.yaml\nrows: []\n", "vqlab sweep a.yaml"),
        (b"a: &a [*a]\n", "not valid YAML: it holds too many values"),
        (b"a: [1, 2\n", "not valid YAML"),
    ],
)
def test_invalid_config_file(config, words):
    Path("a.yaml").write_bytes(config)
    with refused("a.yaml", words):
        read_configs(["fit", "--config=a.yaml"])


@pytest.mark.parametrize("given", ["configs/vqgna.yaml", "config/vqgan.yaml", "configs/vqgan"])
def test_missing_config_file(given):
    Path("configs").mkdir()
    Path("configs/vqgan.yaml").touch()
    with refused(f"--config {given} is not a file: did you mean configs/vqgan.yaml?"):
        read_configs(["fit", "--config", given])


def test_config_in_current_folder_replaces_builtin_config(monkeypatch, tmp_path):
    monkeypatch.setattr(arguments, "PACKAGE", tmp_path / "package")
    builtin, name = tmp_path / "package/configs/a.yaml", "configs/a.yaml"
    builtin.parent.mkdir(parents=True)
    builtin.touch()
    assert with_builtin_configs(["fit", "--config", name]) == ["fit", "--config", str(builtin)]
    assert with_builtin_configs([f"--config={name}"]) == [f"--config={builtin}"]
    Path("configs").mkdir()
    Path(name).touch()
    assert with_builtin_configs([f"--config={name}"]) == [f"--config={name}"]


@pytest.mark.parametrize(
    ("args", "configs", "current"),
    [
        (["--model.clip_d=1"], [{"model": "VQGAN"}], ["--model.adversarial.disc_clip=1"]),
        (["--model.clip_d=1"], [{"model": {"class_path": "vqlab.SGAN"}}], ["--model.optimization.disc_clip=1"]),
        (["--model=VQVAE", "--model.schedule.kind=x"], [], ["--model=VQVAE", "--model.optimization.schedule.kind=x"]),
        (["--model=JSA", "--model.kernel=a"], [{"model": "VQVAE"}], ["--model=JSA", "--model.sampler.kernel=a"]),
        (["--model=VQGAN", "--model.adversarial=hinge"], [], ["--model=VQGAN", "--model.adversarial.loss=hinge"]),
        (["--model=VQGAN", "--model.adversarial.disc_start=1"], [], None),
        (["--model=VQVAE", "--model.lr=1", "--data.lr=1"], [], None),
    ],
)
def test_options_of_version_0_1_are_translated(args, configs, current):
    assert with_current_options(args, configs) == (current or args)
