"""A row belongs to one process, until the last process that holds it is gone."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.forks import fork, status_of
from tests.helpers.sweeps import wait_for
from vqlab.errors import UserError
from vqlab.experiments import row_lock as module
from vqlab.experiments.row_lock import is_running, row_lock

HOLD = """
import subprocess, time
from pathlib import Path
from vqlab.experiments.row_lock import row_lock
with row_lock(Path("run")) as lock:
    print(subprocess.Popen(["sleep", "60"], pass_fds=(lock,)).pid, flush=True)
    time.sleep(60)
"""


def taken():
    with row_lock(Path("run")) as lock:
        assert (lock is None) == is_running(Path("run")) or lock is not None
        return lock is None


def test_the_child_of_a_killed_sweep_keeps_its_row_and_no_lock_is_stale():
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


def test_a_folder_that_cannot_be_locked_is_named(monkeypatch):
    def refuse(*args):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    with pytest.raises(UserError, match=r"cannot be locked \(No locks available\).*--runs"), row_lock(Path("run")):
        pass


def test_a_lock_of_a_folder_that_was_removed_is_none(monkeypatch):
    real, removed = module.fcntl.flock, []

    def flock(*args):
        if not removed:
            removed.append(1)
            shutil.rmtree("run")  # between opening and locking
        real(*args)

    monkeypatch.setattr(module.fcntl, "flock", flock)
    with row_lock(Path("run")) as lock:
        assert os.path.samestat(os.fstat(lock), os.stat("run/.lock"))


def test_a_fork_lets_go_of_the_lock():
    """A worker that loads data may outlive a process that is killed."""
    with row_lock(Path("run")):
        worker = fork(time.sleep, 60)
    try:
        wait_for(lambda: not taken())  # the fork may not have run yet
    finally:
        os.kill(worker, signal.SIGKILL)
        status_of(worker)
