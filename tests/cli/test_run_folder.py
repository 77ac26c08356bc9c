"""Each run has its own folder, also if several runs start at the same time."""

import os
import time
from pathlib import Path

import pytest
from jsonargparse import Namespace

from tests.e2e.tiny import FIT, fails, fit
from tests.helpers.forks import fork, status_of
from vqlab.cli import run_folder
from vqlab.cli.main import main
from vqlab.cli.run_folder import held_run_folder
from vqlab.errors import UserError
from vqlab.experiments.run_state import row_lock


def config(name=None, **more):
    return Namespace(name=name, overwrite=False, runs="runs", ckpt_path=None, model=Namespace(class_path="x.M"), **more)


def start(name, log, seconds=0.0, refused=False):
    """Hold a run folder as fit does, and log it; then raise UserError if ``refused``, or write a run."""
    with held_run_folder(config(name), "fit") as folder:
        with open(log, "a") as file:
            print(folder, file=file, flush=True)
        time.sleep(seconds)
        if refused:
            raise UserError("no")
        (folder / "config.yaml").write_text("")


@pytest.mark.parametrize("number", range(3))
def test_only_one_of_two_simultaneous_starts_gets_the_name(number):
    children = [fork(start, "x", "log", 0.01) for _ in range(2)]
    assert sorted(os.waitstatus_to_exitcode(status_of(child)) for child in children) == [0, 1]
    assert Path("log").read_text() == "runs/m/x\n"


def test_starts_within_one_second_get_different_folders(monkeypatch):
    monkeypatch.setattr(run_folder.time, "strftime", lambda form: "20261129-012912")
    children = [fork(start, None, "log", 0.01) for _ in range(4)]
    assert [status_of(child) for child in children] == [0] * 4
    names = ["20261129-012912", *(f"20261129-012912-{number}" for number in (2, 3, 4))]
    assert sorted(Path("log").read_text().split()) == [f"runs/m/{name}" for name in names]


def test_failed_start_keeps_the_folder_of_another_start():
    children = [fork(start, "x", "log", 0.0, number % 2 == 0) for number in range(20)]
    statuses = [os.waitstatus_to_exitcode(status_of(child)) for child in children]
    assert statuses[1::2].count(0) == Path("runs/m/x/config.yaml").exists()


def test_failed_start_leaves_no_files():
    with pytest.raises(UserError, match=r"^no$"):
        start("x", "log", refused=True)
    assert not Path("runs").exists()
    Path("runs/m/x").mkdir(parents=True)
    (Path("runs/m/x") / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"^no$"):
        start("x", "log", refused=True)
    assert (Path("runs/m/x") / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["", "..", "../../evil", "/tmp/x", "a\nb", "x" * 256])
def test_invalid_name(name):
    with pytest.raises(UserError, match=r"^--name must be a plain file name.*got") as raised:
        start(name, "log")
    assert len(raised.value.line) < 200
    assert not Path("runs").exists()


def test_valid_names():
    for name in ("x" * 255, "täglich", "a b", ".hidden", "lr=1e-3,b"):
        start(name, "log")
        assert (Path("runs/m") / name / "config.yaml").exists()


def test_runs_folder_that_cannot_be_created():
    Path("runs").write_text("")
    with pytest.raises(UserError, match=r"cannot be written.*--runs"), held_run_folder(config("x"), "fit"):
        pass


def test_row_inherits_the_lock_of_its_sweep(monkeypatch):
    with row_lock(Path("runs/m/x")) as lock:
        with pytest.raises(UserError, match="in use by another process"):
            start("x", "log")
        monkeypatch.setenv("VQLAB_RUN_LOCK", str(lock))
        start("x", "log")
        with pytest.raises(UserError, match="runs/m/x holds a run"):
            start("x", "log")
        start("y", "log")  # not locked by the sweep
        with row_lock(Path("runs/m/y")) as other:
            assert other not in (lock, None)


def test_run_in_progress_is_neither_resumed_nor_overwritten(capsys):
    fit("--name=run", "--trainer.max_steps=4")
    last = "runs/vqvae/run/checkpoints/last.ckpt"
    with row_lock(Path("runs/vqvae/run")):
        assert "runs/vqvae/run is in use" in fails(capsys, ["fit", f"--ckpt_path={last}", "--trainer.max_steps=8"])
        assert "runs/vqvae/run is in use" in fails(capsys, [*FIT, "--name=run", "--overwrite"])
        main(["test", f"--ckpt_path={last}"])
    main(["fit", f"--ckpt_path={last}", "--trainer.max_steps=8"])
    assert "--overwrite" in fails(capsys, [*FIT, "--overwrite"])
