"""A sweep of real runs, killed in the middle, started again, and reported."""

import os
import signal
import time
from pathlib import Path

from tests.e2e.tiny import TRAINER, logged, write_experiment
from tests.helpers import warm_vqlab
from tests.helpers.forks import fork, status_of, stop
from vqlab.cli.check_options import complaints
from vqlab.cli.report import report
from vqlab.cli.sweep import sweep

ROWS = [
    {"name": "ema"},
    {"name": "loss", "model.quantizer.codebook_update": "loss"},
    {"name": "fsq", "model.quantizer": "FSQ", "model.quantizer.levels": [5, 5]},
]
FOLDERS = [Path(f"runs/vqvae/{row}_seed{seed}") for row in ("ema", "loss", "fsq") for seed in (0, 1)]
SWEEP = ["x.yaml", "--jobs=2", "--wandb.mode=disabled", *TRAINER]
OUTPUT = Path("output.txt")


def is_finished(folder):
    return (folder / "finished.json").exists()


def test_killed_in_the_middle_and_started_again():
    write_experiment(*ROWS)
    with warm_vqlab.serve() as command:
        process = fork(sweep, SWEEP, command, complaints, output=OUTPUT)
        begun = time.monotonic()
        while not any(map(is_finished, FOLDERS)):
            assert os.waitpid(process, os.WNOHANG)[0] == 0, OUTPUT.read_text()
            assert time.monotonic() - begun < 240
            time.sleep(0.005)
        for number in [*stop(process), process]:
            os.kill(number, signal.SIGKILL)
        status_of(process)
        time.sleep(0.1)
        whole = [folder for folder in FOLDERS if is_finished(folder)]
        before = {path: path.stat().st_mtime_ns for folder in whole for path in folder.rglob("*")}
        assert status_of(fork(sweep, SWEEP, command, complaints, output=OUTPUT)) == 0, OUTPUT.read_text()
    assert f"{6 - len(whole)} of 6 rows to run" in OUTPUT.read_text()
    assert all(map(is_finished, FOLDERS))
    assert before == {path: path.stat().st_mtime_ns for path in before}, "a finished run was changed"

    report(["runs", "-o", "out"])
    page = Path("out/report.html").read_text()
    assert "6 runs of VQVAE, 3 settings with repeats: all finished." in page
    for folder in FOLDERS:
        assert [row["step"] for row in logged(folder / "metrics.csv")] == [4, 9, 14, 19, 24, 29]
        values = [row["val/loss"] for row in logged(folder / "metrics.csv") if "val/loss" in row]
        assert f'title="{min(values)!r}"' in page
        assert f'title="{values[-1]!r}"' in page
