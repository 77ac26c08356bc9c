"""Which processors and processes a run has, and in which precision it calculates."""

from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.accelerators import CUDAAccelerator

from tests.e2e.tiny import FIT, fails, fit
from vqlab.cli import devices
from vqlab.cli.devices import choose_precision, num_devices


def with_gpus(monkeypatch, count):
    """Let PyTorch see ``count`` GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: count > 0)
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: count > 0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trainer.accelerator=gppu"], "gppu"),
        (["--trainer.devices=x"], "devices"),
        (["--trainer.strategy=dpp"], "dpp"),
        (['--trainer.strategy={"class_path": "lightning.pytorch.strategies.FSDPStrategy"}'], "leave out --trainer.st"),
    ],
)
def test_devices_and_strategies_that_do_not_exist(capsys, options, words):
    assert words in fails(capsys, [*FIT, *options])
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("gpus", "options", "number"),
    [
        (0, {}, 1),
        (2, {}, 2),
        (2, {"devices": -1, "num_nodes": 2}, 4),
        (2, {"devices": "0,1"}, 2),
        (2, {"devices": [1]}, 1),
        (2, {"accelerator": "cpu"}, 1),
        (0, {"devices": "3"}, 3),
    ],
)
def test_the_number_of_processes(monkeypatch, gpus, options, number):
    with_gpus(monkeypatch, gpus)
    assert num_devices(options) == number


@pytest.mark.parametrize(
    ("gpus", "bf16", "given", "chosen", "line"),
    [
        *[(0, False, p, "32-true", "slow on this CPU") for p in ("bf16-mixed", "16-mixed", 16)],
        (0, False, "bf16-true", "bf16-true", "32-true is faster"),
        (0, True, "16-mixed", "bf16-mixed", "needs a GPU"),
        *[(0, True, p, p, "") for p in ("bf16-mixed", "bf16-true", None)],
        *[(0, False, p, p, "") for p in ("32-true", None)],
        (1, False, "16-mixed", "16-mixed", ""),
    ],
)
def test_mixed_precision_that_would_be_slow(monkeypatch, caplog, gpus, bf16, given, chosen, line):
    caplog.set_level("INFO")
    with_gpus(monkeypatch, gpus)
    monkeypatch.setattr(devices, "has_bf16_instructions", lambda: bf16)
    trainer = {"accelerator": "auto", "precision": given}
    choose_precision(trainer)
    assert trainer["precision"] == chosen
    assert len(caplog.messages) == bool(line)
    assert line in "".join(caplog.messages)


def test_the_saved_config_has_the_precision_that_was_used(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "has_bf16_instructions", lambda: False)
    fit("--name=slow", "--trainer.max_steps=1", "--trainer.limit_val_batches=1", "--trainer.precision=bf16-mixed")
    config = yaml.safe_load((tmp_path / "runs/vqvae/slow/config.yaml").read_text())
    assert config["trainer"]["precision"] == "32-true"


@pytest.mark.parametrize(
    ("job", "complaint"),
    [
        (
            {"NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"},
            "1 of 2 processes started: --trainer.devices=2",
        ),
        ({"NTASKS": "1"}, "SLURM_NODEID is not set: under SLURM call srun vqlab, or unset SLURM_NTASKS"),
    ],
)
def test_slurm_starts_other_processes_than_the_trainer_wants(capsys, monkeypatch, job, complaint):
    for name, value in {"JOB_NAME": "train", **job}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert complaint in fails(capsys, [*FIT, "--trainer.devices=2"])


def test_torchrun_starts_more_processes_than_the_trainer_wants(capsys, monkeypatch):
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, str(value))
    assert "2 of 1 processes started" in fails(capsys, FIT)
