"""A VQ-VAE on scikit-learn's digits that trains in seconds, as a user would type it."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.helpers.forks import Forked, on_two_ranks
from vqlab.cli.main import main

ROOT = Path(__file__).parents[2]
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
STOPS = "tests.helpers.stops"
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
    with pytest.raises(SystemExit) as stopped:
        main(args)
    complaint = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2
    assert complaint.startswith("vqlab: error: ")
    assert "Traceback" not in complaint
    return complaint


def command(*args: str, **environ: str) -> subprocess.Popen:
    """Start ``python -m vqlab`` as a user does, one thread per rank; Lightning starts the other ranks.

    Its imports take ten seconds of a core: where they are not what is tested, use a fork of this process.
    """
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT), **environ}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-m", "vqlab", *args], env=env, stdout=pipe, stderr=subprocess.STDOUT, text=True
    )


def reached(checkpoint: Path) -> int:
    """Return the step that ``checkpoint`` was written at."""
    return torch.load(checkpoint, weights_only=True)["global_step"]


def fit_and_kill(last: Path, step: int, *args: str, start: Callable[..., Any] = Forked) -> int:
    """Start ``vqlab`` with ``args``, SIGKILL it once ``last`` holds ``step`` or more, and return what it holds.

    The run is told to go on for very long, so that it cannot end before it is killed.
    """
    process = start(*args, "--trainer.max_steps=100000")
    for _ in range(1800):
        if process.poll() is not None or (last.exists() and reached(last) >= step):
            break
        time.sleep(0.1)
    process.kill()
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output
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


def weights(run: str | Path) -> dict[str, torch.Tensor]:
    """Return the weights in the last checkpoint of a run folder."""
    return torch.load(Path(run) / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Check that two dicts hold the same tensors, to the last bit."""
    assert ours.keys() == theirs.keys()
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


def assert_same_log(run: str | Path, other: str | Path, rel: float = 1e-6, only: Sequence[str] = ()) -> None:
    """Check that the logs of two run folders agree, in the columns ``only`` where there are any given."""
    ours, theirs = (logged(Path(folder) / "metrics.csv") for folder in (run, other))
    if only:
        ours, theirs = ([{name: row.get(name) for name in only} for row in rows] for rows in (ours, theirs))
    assert ours == [pytest.approx(row, rel=rel, abs=1e-6) for row in theirs]


def assert_same_runs(run: str | Path, other: str | Path) -> None:
    """Check that two run folders hold the same log and, to the last bit, the same weights."""
    assert_same_log(run, other)
    assert_equal(weights(run), weights(other))


def fit_on_two_ranks(*args: str) -> None:
    """Run ``vqlab`` with ``args`` on two ranks; check that both end with the same weights, to the last bit."""
    for status, output in on_two_ranks(*args, f"--trainer.callbacks+={STOPS}.SaveAll"):
        assert status == 0, output
    assert_equal(*(torch.load(f"rank_{rank}.pt", weights_only=True) for rank in (0, 1)))
