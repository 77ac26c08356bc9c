"""A sweep of real runs, killed in the middle and started again."""

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
NAMES = [f"{row}_seed{seed}" for row in ("ema", "loss", "fsq") for seed in (0, 1)]
LATER = NAMES[2:]  # the first two end at the same time, so that one of them is soon too late to be killed
SWEEP = ["x.yaml", "--jobs=2", "--wandb.mode=disabled", *TRAINER]


def folder(name):
    return Path("runs/vqvae") / name


def is_finished(name):
    return (folder(name) / "finished.json").exists()


def calls(name):
    """The calls of vqlab that the sweep made for a row."""
    lines = (folder(name) / "sweep.log").read_text().splitlines() if (folder(name) / "sweep.log").exists() else []
    return [line for line in lines if line.startswith("$ vqlab")]


def start(command):
    """Sweep in a process of its own, which is forked, too; return its id and its output."""
    output = Path("output.txt")
    return fork(sweep, SWEEP, command, complaints, output=output), output


def test_killed_in_the_middle_and_started_again():
    write_experiment(*ROWS)
    with warm_vqlab.serve() as command:
        process, output = start(command)
        begun = time.monotonic()
        while not (
            any(map(is_finished, NAMES))
            and (half := [n for n in LATER if (folder(n) / "checkpoints/last.ckpt").exists() and not is_finished(n)])
        ):
            assert os.waitpid(process, os.WNOHANG)[0] == 0, output.read_text()
            assert time.monotonic() - begun < 240
            time.sleep(0.005)
        for number in [*stop(process), process]:
            os.kill(number, signal.SIGKILL)
        status_of(process)
        time.sleep(0.1)
        assert not is_finished(half[0]), "the test was too slow to kill it"
        whole = {name for name in NAMES if is_finished(name)}
        before = {path: path.stat().st_mtime_ns for name in whole for path in folder(name).rglob("*")}

        process, output = start(command)
        assert status_of(process) == 0, output.read_text()
    lines = output.read_text()
    assert lines.startswith(f"{len(NAMES) - len(whole)} of 6 rows to run")
    assert all(map(is_finished, NAMES))
    assert before == {path: path.stat().st_mtime_ns for path in before}, "a run that was finished was touched"
    for name in NAMES:
        assert [row["step"] for row in logged(folder(name) / "metrics.csv")] == [4, 9, 14, 19, 24, 29]
        assert len(calls(name)) == 1 + (name not in whole and bool(calls(name)[1:]))
    assert f"--ckpt_path=runs/vqvae/{half[0]}/checkpoints/last.ckpt" in calls(half[0])[1]

    report(["runs", "-o", "out"])
    page = Path("out/report.html").read_text()
    assert "6 runs of VQVAE, 3 settings with repeats: all finished." in page
    for name in NAMES:
        values = [row["val/loss"] for row in logged(folder(name) / "metrics.csv") if "val/loss" in row]
        assert f'title="{min(values)!r}"' in page
        assert f'title="{values[-1]!r}"' in page
