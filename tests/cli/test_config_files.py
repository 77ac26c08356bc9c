"""Configuration files that cannot be read, or hold nothing where there must be a value: the file is named."""

from pathlib import Path

import pytest

from tests.e2e.tiny import DATA, NETS, fails
from vqlab.cli import config_files
from vqlab.cli.config_files import with_builtin_configs


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (b"name: \xff", ["not valid YAML"]),
        (b"\x89PNG\r\n\x1a\n\0", ["not valid YAML"]),
        (b"", ["got None"]),
        (b"# model: VQVAE\n", ["got None"]),
        (b"- VQVAE\n", ["got ['VQVAE']"]),
        (b"VQVAE\n", ["got 'VQVAE'"]),
        (b"trainer:\n\tmax_steps: 1\n", ["line 2", "not valid YAML"]),
        (b"model: {class_path: VQVAE\ndata: Digits\n", ["line 2", "not valid YAML"]),
        (b"seed_everything: 1\nseed_everything: 2\n", ["there twice"]),
        (b"health:\nseed_everything: 1", ["nothing under health"]),
        (b"health:\n  min_usage:\nseed_everything: 1", ["--health.min_usage must be a number"]),
        (b"trainer:\nseed_everything: 1", ["nothing under trainer"]),
        (b"trainer: 3", ["trainer must be a mapping of options, got 3"]),
        (b"trainer: {accelerator: }", ["--trainer.accelerator must be"]),
        (b"trainer: {max_steps: null}", ["--trainer.max_steps must be an integer, got None"]),
        (b"trainer: {callbacks: [{class_path: }]}", ["trainer.callbacks[0].class_path"]),
        (b"runs:\nseed_everything: 1", ["--runs must not be null"]),
        (b"model:\n", ["nothing under model"]),
        (b"model: 3", ["model must be a class"]),
        (b"model: {class_path: , init_args: {lr: 1}}", ["nothing under model.class_path"]),
        (b"model: {class_path: VQVAE, init_args: }", ["nothing under model.init_args"]),
        (b"model: {class_path: VQVAE, init_args: [3]}", ["model.init_args must be a mapping"]),
        (b"model: {class_path: VQVAE, lr: 1}", ["lr is beside model.class_path", "into model.init_args"]),
        (b"base: configs/vqvae.yaml\nrows: []\n", ["vqlab sweep a.yaml"]),
        (b"a: &a [*a]\n", ["too many values"]),
    ],
)
def test_configs_without_the_values_that_they_need(capsys, config, words):
    Path("a.yaml").write_bytes(config)
    complaint = fails(capsys, ["fit", *NETS, *DATA, "--config=a.yaml"])
    assert "a.yaml" in complaint or words[0].startswith("--")
    for word in words:
        assert word in complaint
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("configs/vqgna.yaml", "does not exist: did you mean configs/vqgan.yaml?"),
        ("config/vqgan.yaml", "did you mean configs/vqgan.yaml?"),
        ("vqgan.yml", "did you mean configs/vqgan.yaml?"),
        ("configs/vqgan", "did you mean configs/vqgan.yaml?"),
        ("mien.yaml", "did you mean mine.yaml?"),
        ("runs/first", "is a folder: give runs/first/config.yaml"),
        ("configs/other", "is a folder without configurations: give a .yaml file"),
        ("zzz.yaml", "does not exist: check the path"),
        ("", "needs a file"),
    ],
)
def test_a_config_that_does_not_exist(capsys, given, hint):
    for name in ("configs/vqgan.yaml", "configs/sgan.yaml", "mine.yaml", "runs/first/a.yaml", "runs/first/config.yaml"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("configs/other").mkdir()
    complaint = fails(capsys, ["fit", f"--config={given}", *DATA])
    assert given in complaint
    assert complaint.endswith(hint)


def test_a_config_of_the_current_folder_comes_before_that_of_vqlab(monkeypatch, tmp_path):
    monkeypatch.setattr(config_files, "PACKAGE", tmp_path / "package")
    builtin, name = tmp_path / "package/configs/a.yaml", "configs/a.yaml"
    builtin.parent.mkdir(parents=True)
    builtin.touch()
    assert with_builtin_configs(["fit", "--config", name]) == ["fit", "--config", str(builtin)]
    assert with_builtin_configs([f"--config={name}"]) == [f"--config={builtin}"]
    Path("configs").mkdir()
    Path(name).touch()
    assert with_builtin_configs([f"--config={name}"]) == [f"--config={name}"]
