"""State of a run, and its lock, which one process holds until the last process ends that has its descriptor."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.sweeps import wait_for
from vqlab.errors import UserError
from vqlab.experiments import run_state as module
from vqlab.experiments.run_state import State, is_running, row_lock, state_of

HOLD = """
import subprocess, time
from pathlib import Path
from vqlab.experiments.run_state import row_lock
with row_lock(Path("run")) as lock:
    print(subprocess.Popen(["sleep", "60"], pass_fds=(lock,)).pid, flush=True)
    time.sleep(60)
"""


def taken():
    with row_lock(Path("run")) as lock:
        assert (lock is None) == is_running(Path("run")) or lock is not None
        return lock is None


def test_child_of_a_killed_sweep_keeps_the_lock():
    assert not is_running(Path("run"))
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    assert taken(), "its run still trains"
    assert is_running(Path("run"))
    os.kill(child, signal.SIGKILL)
    wait_for(lambda: not taken())
    assert not is_running(Path("run"))


def test_message_of_a_folder_that_cannot_be_locked(monkeypatch):
    def refuse(*args):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    with pytest.raises(UserError, match=r"cannot be locked \(No locks available\).*--runs"), row_lock(Path("run")):
        pass


def test_lock_is_taken_again_if_the_folder_was_removed(monkeypatch):
    real, removed = module.fcntl.flock, []

    def flock(*args):
        if not removed:
            removed.append(1)
            shutil.rmtree("run")  # between opening and locking
        real(*args)

    monkeypatch.setattr(module.fcntl, "flock", flock)
    with row_lock(Path("run")) as lock:
        assert os.path.samestat(os.fstat(lock), os.stat("run/.lock"))


def test_states_of_a_run():
    folder, config = Path("run"), Path("run/config.yaml")
    assert state_of(folder) is State.NEW
    folder.mkdir()
    config.write_text("trainer: {max_steps: 20}")
    assert state_of(folder) is State.UNSAVED
    write_checkpoint(folder / "checkpoints/last.ckpt", 19)
    assert state_of(folder) is State.INTERRUPTED
    write_checkpoint(folder / "checkpoints/last.ckpt", 20)
    assert state_of(folder) is State.FINISHED, "killed between its last checkpoint and finished.json"
    for unbounded in ("trainer: {max_steps: -1}", "trainer: {max_st"):
        config.write_text(unbounded)
        assert state_of(folder) is State.INTERRUPTED
    Path("run/finished.json").write_text("{}")
    assert state_of(folder) is State.FINISHED
