"""Precision, processes and strategy of a run."""

from pathlib import Path

import pytest
import torch
import yaml

from tests.e2e.tiny import FIT, fails, fit
from vqlab.cli import devices
from vqlab.cli.devices import choose_precision


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trainer.accelerator=gppu"], "gppu"),
        (["--trainer.devices=x"], "devices"),
        (["--trainer.strategy=dpp"], "dpp"),
        (['--trainer.strategy={"class_path": "lightning.pytorch.strategies.FSDPStrategy"}'], "leave out --trainer.st"),
    ],
)
def test_invalid_devices_and_strategies(capsys, options, words):
    assert words in fails(capsys, [*FIT, *options])
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("gpus", "bf16", "given", "chosen", "line"),
    [
        *[(0, False, p, "32-true", "slow on this CPU") for p in ("bf16-mixed", "16-mixed", 16)],
        (0, True, "16-mixed", "bf16-mixed", "needs a GPU"),
        *[(0, True, p, p, "") for p in ("bf16-mixed", "bf16-true", None)],
        *[(0, False, p, p, "") for p in ("bf16-true", "32-true", None)],
        (1, False, "16-mixed", "16-mixed", ""),
    ],
)
def test_slow_mixed_precision_is_replaced_on_cpu(monkeypatch, caplog, gpus, bf16, given, chosen, line):
    caplog.set_level("INFO")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(devices, "has_bf16_instructions", lambda: bf16)
    trainer = {"accelerator": "auto", "precision": given}
    choose_precision(trainer)
    assert trainer["precision"] == chosen
    assert len(caplog.messages) == bool(line)
    assert line in "".join(caplog.messages)


def test_saved_config_has_the_replaced_precision(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "has_bf16_instructions", lambda: False)
    fit("--name=slow", "--trainer.max_steps=1", "--trainer.limit_val_batches=1", "--trainer.precision=bf16-mixed")
    config = yaml.safe_load((tmp_path / "runs/vqvae/slow/config.yaml").read_text())
    assert config["trainer"]["precision"] == "32-true"


@pytest.mark.parametrize(
    ("environ", "devices", "message"),
    [
        (
            dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), "0"),
            2,
            "1 of 2 processes started: --trainer",
        ),
        ({}, 2, "SLURM_NODEID is not set: under SLURM call srun vqlab, or unset SLURM_NTASKS"),
        (
            {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"},
            1,
            "2 of 1 processes started",
        ),
    ],
)
def test_wrong_number_of_processes_of_slurm_and_torchrun(capsys, monkeypatch, environ, devices, message):
    slurm = {} if "RANK" in environ else {"SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1"}
    for name, value in {**slurm, **environ}.items():
        monkeypatch.setenv(name, value)
    assert message in fails(capsys, [*FIT, f"--trainer.devices={devices}"])
