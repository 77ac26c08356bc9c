"""How many processes a run has, and what each holds."""

import pytest
from tiny import FIT, fails


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
