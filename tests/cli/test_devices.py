"""Which processors and processes a run has, and in which precision it calculates."""

import pytest
import torch
import yaml
from lightning.pytorch.accelerators import CUDAAccelerator

from tests.e2e.tiny import FIT, fails, fit
from tests.helpers.refusal import refused
from vqlab.cli import devices
from vqlab.cli.devices import check_devices, choose_precision


def with_gpus(monkeypatch, count):
    """Let PyTorch see ``count`` GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: count > 0))


@pytest.mark.parametrize(
    ("gpus", "options", "words"),
    [
        (0, {"accelerator": "gpu"}, ["--trainer.accelerator=gpu", "no GPU", "set --trainer.accelerator=auto"]),
        (0, {"accelerator": "cuda"}, ["no GPU"]),
        (0, {"accelerator": "tpu"}, ["no TPU"]),
        (0, {"accelerator": "gppu"}, ["'gppu'", "auto, cpu, gpu", "set --trainer.accelerator=gpu"]),
        (0, {"accelerator": "xpu9"}, ["set --trainer.accelerator="]),
        *[
            (0, {"devices": value}, ["on a CPU, got", "set --trainer.devices=1"])
            for value in (0, -1, -2, "0", "x", [0])
        ],
        *[(0, {"accelerator": "cpu", "devices": value}, ["at least 1"]) for value in (0, "0,1", [], "1.5", "null")],
        *[(2, {"devices": value}, ["at most 2", "from 0 to 1"]) for value in (0, 3, "3", [0, 2], "0,2", [], [-1], -2)],
        (2, {"accelerator": "cpu", "devices": [0]}, ["on a CPU"]),
    ],
)
def test_devices_that_do_not_exist(monkeypatch, gpus, options, words):
    with_gpus(monkeypatch, gpus)
    with refused(*words):
        check_devices(options)


@pytest.mark.parametrize(
    ("gpus", "options"),
    [
        *[(0, {"devices": value}) for value in ("auto", 1, "1", 4)],
        *[(2, {"devices": value}) for value in ("auto", -1, "-1", 1, "2", [0, 1], [1], "0,1")],
        (2, {"accelerator": "gpu", "devices": 2}),
        (2, {"accelerator": "cpu", "devices": 3}),
    ],
)
def test_devices_that_exist(monkeypatch, gpus, options):
    with_gpus(monkeypatch, gpus)
    check_devices(options)


@pytest.mark.parametrize(
    ("gpus", "bf16", "given", "chosen", "line"),
    [
        *[(0, False, p, "32-true", "slow on this CPU") for p in ("bf16-mixed", "16-mixed", "bf16", "16", 16)],
        (0, False, "bf16-true", "bf16-true", "32-true is faster"),
        (0, True, "16-mixed", "bf16-mixed", "needs a GPU"),
        *[(0, True, p, p, "") for p in ("bf16-mixed", "bf16-true", "32-true", None)],
        *[(0, False, p, p, "") for p in ("32-true", "64-true", None)],
        *[(1, False, p, p, "") for p in ("bf16-mixed", "16-mixed", "bf16-true")],
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
    "strategy", ["fsdp", "deepspeed_stage_2", '{"class_path": "lightning.pytorch.strategies.FSDPStrategy"}']
)
def test_a_model_is_not_split_over_gpus(capsys, strategy):
    assert "leave out --trainer.strategy" in fails(capsys, [*FIT, f"--trainer.strategy={strategy}"])


@pytest.mark.parametrize(
    ("job", "complaint"),
    [
        (
            {"NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"},
            "1 of 2 processes started: --trainer.devices=2",
        ),
        ({"NTASKS": "2", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}, "Use `--ntasks-per-node=2` instead"),
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
