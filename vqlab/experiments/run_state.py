"""Progress and lock of a run folder."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path

from vqlab.atomic_io import disk_errors, write_atomic
from vqlab.errors import UserError
from vqlab.experiments.checkpoint_header import checkpoint_step
from vqlab.experiments.settings import Settings, flatten, read_yaml

CONFIG, LOG, LAST, LOCK = "config.yaml", "metrics.csv", "checkpoints/last.ckpt", ".lock"
FINISHED = "finished.json"  # fit writes it last
FAILED = "failed.json"  # a sweep writes it, with the reason
OUTPUT = "sweep.log"  # output of the row of a sweep
ROW = "row.json"  # a sweep writes it: experiment file and place of the row
NOTE = "note.txt"  # one line about the run
LONGEST_NOTE = 500
LOCK_FD = "VQLAB_RUN_LOCK"  # variable by which a sweep passes the descriptor of its row's lock to the row
TIMES_FILE = "VQLAB_TIMES"  # variable by which a sweep asks a run for its times
TAKEN = (BlockingIOError, PermissionError)  # errors of flock if another process has the lock


class State(StrEnum):
    """Progress of a run."""

    NEW = "new"  # not started
    UNSAVED = "unsaved"  # stopped before the first checkpoint: it can only be started again
    INTERRUPTED = "interrupted"  # it can be resumed from last.ckpt
    FINISHED = "finished"


def state_of(folder: Path) -> State:
    """Return the state of the run in ``folder``."""
    if (folder / FINISHED).exists():
        return State.FINISHED
    if not (folder / LAST).exists():
        return State.UNSAVED if (folder / CONFIG).exists() else State.NEW
    # A run that was killed between its last checkpoint and finished.json is complete.
    max_steps = settings_of(folder).get("trainer.max_steps")
    done = isinstance(max_steps, int) and 0 <= max_steps <= checkpoint_step(folder / LAST)
    return State.FINISHED if done else State.INTERRUPTED


def holds_run(folder: Path) -> bool:
    """Return whether a training was started in ``folder``."""
    return (folder / CONFIG).exists() or (folder / "checkpoints").exists()


def clear_run(folder: Path) -> None:
    """Remove the files of the run in ``folder``; config.yaml, which marks a run folder, comes last."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == CONFIG):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in (LOCK, OUTPUT):
            path.unlink()


def settings_of(folder: Path) -> Settings:
    """Return the settings of the run in ``folder`` by dotted name; empty if config.yaml is missing or damaged."""
    try:
        return flatten(read_yaml(folder / CONFIG))
    except UserError:
        return {}


def check_note(note: str) -> str:
    """Return a note as one line; raises UserError if it is too long."""
    if len(line := " ".join(note.split())) > LONGEST_NOTE:
        raise UserError(f"note must have at most {LONGEST_NOTE} characters, got {len(line)}")
    return line


def write_note(folder: Path, note: str) -> None:
    """Write the note of the run in ``folder``; an empty one removes it."""
    if not note:
        (folder / NOTE).unlink(missing_ok=True)
        return
    with write_atomic(folder / NOTE) as file:
        file.write(f"{note}\n".encode())


@contextmanager
def row_lock(folder: Path) -> Iterator[int | None]:
    """Hold the lock of a folder, on all machines; yields its file descriptor, or None if another process has it.

    The kernel releases the lock when the last process ends that has the descriptor open: a child may outlive its sweep.
    """
    text = os.environ.get(LOCK_FD, "")
    inherited = text.isdigit() and is_lock_of(int(text), folder)
    descriptor = int(text) if inherited else take_lock(folder)
    try:
        yield descriptor
    finally:
        if descriptor is not None and not inherited:
            os.close(descriptor)


def take_lock(folder: Path) -> int | None:
    """Create the lock file of ``folder`` and lock it; returns None if another process has the lock."""
    for _ in range(10):  # is_running may hold the lock for an instant
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:  # another process has just removed the folder
                continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_lock_of(descriptor, folder):  # not if the folder was removed meanwhile
                return descriptor
        except TAKEN:
            time.sleep(0.01)
        except OSError as error:
            raise UserError(f"{folder} cannot be locked ({error.strerror}): set --runs to another disk") from error
        os.close(descriptor)
    return None


def is_lock_of(descriptor: int, folder: Path) -> bool:
    """Return whether ``descriptor`` is open and belongs to the present lock file of ``folder``."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(folder / LOCK))
    except OSError:
        return False


def is_running(folder: Path) -> bool:
    """Return whether a process holds the lock of ``folder``; changes nothing in it."""
    with suppress(OSError), open(folder / LOCK) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # released when the file is closed
        except OSError as error:
            return isinstance(error, TAKEN)
    return False
