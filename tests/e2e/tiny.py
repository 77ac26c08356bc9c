"""A VQ-VAE on scikit-learn's digits that trains in seconds, and functions that read its run folder."""

import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.helpers.forks import on_two_ranks
from vqlab.cli.main import main

ROOT = Path(__file__).parents[2]
SIZES = ["hidden_channels=16", "res_channels=8"]
AUTOENCODER = ["--model.encoder=SmallEncoder", *(f"--model.encoder.{size}" for size in SIZES)]
AUTOENCODER += ["--model.decoder=SmallDecoder", *(f"--model.decoder.{size}" for size in SIZES)]
NETS = ["--model=VQVAE", *AUTOENCODER, "--model.quantizer=VectorQuantizer", "--model.quantizer.num_embeddings=32"]
NETS += ["--model.quantizer.embedding_dim=8", "--model.lr=0.002"]
DATA = ["--data=Digits", "--data.image_size=16", "--data.batch_size=32"]
TRAINER = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=5"]
TRAINER += ["--trainer.enable_model_summary=false"]
FIT = ["fit", *NETS, *DATA, *TRAINER]
STOPS = "tests.helpers.stops"
CLOCK = {"time", "train/samples_per_second"}
assert_equal = partial(torch.testing.assert_close, rtol=0, atol=0)  # of two dicts of tensors


def fit(*options: str) -> None:
    """Run ``vqlab fit`` in this process."""
    main([*FIT, *options])


def fails(capsys, args: list[str]) -> str:
    """Run ``vqlab`` in this process; return its error, which is one line."""
    with pytest.raises(SystemExit) as stopped:
        main(args)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2
    assert error.startswith("vqlab: error: ")
    return error


def reached(checkpoint: Path) -> int:
    """Return the step at which ``checkpoint`` was written."""
    return torch.load(checkpoint, weights_only=True)["global_step"]


def logged(path: str | Path) -> list[dict[str, float]]:
    """Read a metrics.csv as one dict per step, without the columns that depend on the clock."""
    steps: dict[int, dict[str, float]] = {}
    with open(path) as file:
        for row in csv.DictReader(file):
            metrics = {name: float(value) for name, value in row.items() if value and name not in CLOCK}
            steps.setdefault(int(row["step"]), {}).update(metrics)
    return [steps[step] for step in sorted(steps)]


def weights(run: str | Path) -> dict[str, torch.Tensor]:
    """Return the weights in the last checkpoint of a run folder, and JSA's chains and negative samples."""
    checkpoint = torch.load(Path(run) / "checkpoints/last.ckpt", weights_only=True)
    negatives = {f"negatives.{name}": value for name, value in checkpoint.get("negatives", {}).items()}
    return {**checkpoint["state_dict"], **checkpoint.get("chains", {}), **negatives}


def assert_same_log(run: str | Path, other: str | Path, rel: float = 1e-6, only: Sequence[str] = ()) -> None:
    """Check that the logs of two run folders agree, in the columns ``only`` if given."""
    ours, theirs = (logged(Path(folder) / "metrics.csv") for folder in (run, other))
    if only:
        ours, theirs = ([{name: row.get(name) for name in only} for row in rows] for rows in (ours, theirs))
    assert ours == [pytest.approx(row, rel=rel, abs=1e-6) for row in theirs]


def assert_same_runs(run: str | Path, other: str | Path) -> None:
    """Check that two run folders hold the same log and exactly the same weights."""
    assert_same_log(run, other)
    assert_equal(weights(run), weights(other))


def fit_on_two_ranks(*args: str) -> None:
    """Run ``vqlab`` with ``args`` on two ranks; check that both end with exactly the same weights."""
    for status, output in on_two_ranks(*args, f"--trainer.callbacks+={STOPS}.SaveAll"):
        assert status == 0, output
    assert_equal(*(torch.load(f"rank_{rank}.pt", weights_only=True) for rank in (0, 1)))
