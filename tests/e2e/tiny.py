"""A VQ-VAE on scikit-learn's digits that trains in seconds, as a user would type it."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from vqlab.cli.main import main

AUTOENCODER = [
    "--model.encoder=SmallEncoder",
    "--model.encoder.hidden_channels=16",
    "--model.encoder.res_channels=8",
    "--model.decoder=SmallDecoder",
    "--model.decoder.hidden_channels=16",
    "--model.decoder.res_channels=8",
]
NETS = [
    "--model=VQVAE",
    *AUTOENCODER,
    "--model.quantizer=VectorQuantizer",
    "--model.quantizer.num_embeddings=32",
    "--model.quantizer.embedding_dim=8",
    "--model.lr=0.002",
]
DATA = ["--data=Digits", "--data.image_size=16", "--data.batch_size=32"]
TRAINER = [
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.log_every_n_steps=5",
]
FIT = ["fit", *NETS, *DATA, *TRAINER]
SAVE_ALL = '''
import lightning, torch

class SaveAll(lightning.Callback):
    """Write every rank's own weights, which a checkpoint of rank 0 would hide."""

    def on_train_end(self, trainer, pl_module):
        torch.save(pl_module.state_dict(), f"rank_{trainer.global_rank}.pt")
'''
UNCOMPARABLE = {"time", "train/samples_per_second"}


def fit(*options: str) -> None:
    """Run ``vqlab fit`` in this process."""
    main([*FIT, *options])


def write_experiment(*rows: dict[str, Any]) -> None:
    """Write x.yaml, an experiment of ``rows`` and two seeds over base.yaml, 30 steps each."""
    vector = {"class_path": "VectorQuantizer", "init_args": {"num_embeddings": 32, "embedding_dim": 8}}
    base = {
        "model": {"class_path": "VQVAE", "init_args": {"quantizer": vector, "lr": 0.002}},
        "data": {"class_path": "Digits"},
        "trainer": {"max_steps": 30, "val_check_interval": 10},
        "checkpoint": {"every_n_steps": 5},
    }
    common = dict(option.removeprefix("--").split("=") for option in [*AUTOENCODER, *DATA])
    Path("base.yaml").write_text(yaml.safe_dump(base))
    sweep = {"base": "base.yaml", "common": common, "rows": list(rows), "seeds": [0, 1]}
    Path("x.yaml").write_text(yaml.safe_dump(sweep))


def fails(capsys, args: list[str]) -> str:
    """Run ``vqlab`` in this process; return its one line of complaint, after checking that it is one."""
    import pytest

    with pytest.raises(SystemExit) as stopped:
        main(args)
    complaint = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2
    assert complaint.startswith("vqlab: error: ")
    assert "Traceback" not in complaint
    return complaint


def command(*args: str, **environ: str) -> subprocess.Popen:
    """Start ``python -m vqlab``, one thread per rank; Lightning starts the other ranks.

    A fork of this process would be faster, but may inherit a lock and never end.
    """
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **environ}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-m", "vqlab", *args], env=env, stdout=pipe, stderr=subprocess.STDOUT, text=True
    )


def reached(checkpoint: Path) -> int:
    """Return the step that ``checkpoint`` was written at."""
    return torch.load(checkpoint, weights_only=True)["global_step"]


def fit_and_kill(last: Path, step: int, *args: str) -> int:
    """Start ``vqlab`` with ``args``, SIGKILL it once ``last`` holds ``step`` or more, and return what it holds.

    The run is told to go on for very long, so that it cannot end before it is killed.
    """
    process = command(*args, "--trainer.max_steps=100000")
    for _ in range(1800):
        if process.poll() is not None or (last.exists() and reached(last) >= step):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert reached(last) >= step
    return reached(last)


def logged(path: str | Path) -> list[dict[str, float]]:
    """Read a metrics.csv as one dict per step, without the columns that depend on the clock."""
    steps: dict[int, dict[str, float]] = {}
    with open(path) as file:
        for row in csv.DictReader(file):
            figures = {k: float(v) for k, v in row.items() if v and k not in UNCOMPARABLE}
            steps.setdefault(int(row["step"]), {}).update(figures)
    return [steps[step] for step in sorted(steps)]


def assert_same_runs(run: Path, other: Path) -> None:
    """Check that two run folders hold the same log and, to the last bit, the same weights."""
    import pytest

    ours, theirs = (logged(folder / "metrics.csv") for folder in (run, other))
    assert ours == [pytest.approx(row, rel=1e-6, abs=1e-6) for row in theirs]
    weights, expected = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for folder in (run, other)
    )
    assert weights.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())


def assert_ranks_hold_the_same(folder: Path, *args: str) -> None:
    """Run ``vqlab`` with ``args`` on two processes; check that both end with the same weights, to the last bit."""
    (folder / "save_all.py").write_text(SAVE_ALL)
    two = ["--trainer.devices=2", "--trainer.callbacks+=save_all.SaveAll"]
    process = command(*args, *two, PYTHONPATH=str(folder))
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    first, second = (torch.load(f"rank_{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
