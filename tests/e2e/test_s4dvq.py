"""S4D-VQ as a user runs it."""

from pathlib import Path

import numpy as np
import pytest

from tests.e2e.systems import MODELS
from tests.e2e.tiny import TRAINER, fails, logged
from vqlab.cli.main import main

LAST = "checkpoints/last.ckpt"


def run(name):
    return Path("runs/s4dvq") / name


def write_records(folder, count=5, samples=600):
    folder.mkdir()
    time = np.arange(samples) / 100
    for number in range(count):
        tone = np.sin(2 * np.pi * (1 + 0.3 * number) * time)
        rows = [f"{value:.4f},{2 * value + 1:.4f}" for value in tone]
        rows[300] = ","  # nothing was recorded here
        (folder / f"{number}.csv").write_text("\n".join(["left,right", *rows]))
    return folder


def test_files_of_ones_own(tmp_path, caplog):
    folder = write_records(tmp_path / "records")
    data = ["--data=Signals", f"--data.path={folder}", "--data.sample_rate=100", "--data.resample=50"]
    data += ["--data.picks=[right,left]", "--data.length=64", "--data.stride=16", "--data.batch_size=4"]
    main(["fit", *MODELS["S4DVQ"], *data, *TRAINER, "--name=own", "--trainer.max_steps=10"])
    assert "left out 5 samples" in caplog.text
    figures = set().union(*logged(run("own") / "metrics.csv"))
    assert {"val/snr", "val/snr_0", "val/correlation_1"} <= figures
    main(["test", f"--ckpt_path={run('own') / LAST}"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data.length=4096"], "--data.length=599 or smaller"),
        (["--data.picks=[up]"], "no channel up, but left, right"),
        (["--data.path=nowhere"], "nowhere is not a folder"),
        (["--data.length=130"], "signals of 130 samples are not divisible"),
    ],
)
def test_mistakes_with_files(tmp_path, capsys, options, words):
    folder = write_records(tmp_path / "records", samples=900)
    data = ["--data=Signals", f"--data.path={folder}", "--data.length=128", "--data.batch_size=4"]
    assert words in fails(capsys, ["fit", *MODELS["S4DVQ"], *data, *options, *TRAINER])
    assert not Path("runs").exists()
