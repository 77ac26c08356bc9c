"""One process per run folder, on all machines that share it, whichever processes are killed."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vqlab.atomic_io import disk_errors
from vqlab.errors import UserError

LOCK = ".lock"
INHERITED = "VQLAB_RUN_LOCK"  # variable by which a sweep passes the descriptor of its row's lock to the row
TAKEN = (BlockingIOError, PermissionError)  # errors of flock where another process has the lock
TRIES, PAUSE = 10, 0.01  # is_running takes a lock for an instant; a run holds it for longer
HELD: set[int] = set()  # descriptors of locks


@contextmanager
def row_lock(folder: Path) -> Iterator[int | None]:
    """Hold the lock of a folder; yields its file descriptor, or None if another process has it.

    The kernel frees the lock when the last process that has the descriptor open ends, so none is ever stale. A child
    that inherits the descriptor keeps the row even when the sweep that started it is killed; a fork (a worker that
    loads data) closes it.

    Raises:
        UserError: If the folder cannot be written, or its file system has no locks.
    """
    text = os.environ.get(INHERITED, "")
    inherited = text.isdigit() and is_lock_of(int(text), folder)
    descriptor = int(text) if inherited else take(folder)
    if descriptor is not None:
        HELD.add(descriptor)
    try:
        yield descriptor
    finally:
        if descriptor in HELD and not inherited:  # not in a fork
            HELD.discard(descriptor)
            os.close(descriptor)


def take(folder: Path) -> int | None:
    """Return the descriptor of the lock of ``folder``, which is created, or None if another process has the lock."""
    for _ in range(TRIES):
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
            time.sleep(PAUSE)
        except OSError as error:
            raise UserError(f"{folder} cannot be locked ({error.strerror}): set --runs to another disk") from error
        os.close(descriptor)
    return None


def is_lock_of(descriptor: int, folder: Path) -> bool:
    """Whether ``descriptor`` is open and belongs to the lock file that is now in ``folder``."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(folder / LOCK))
    except OSError:
        return False


def is_running(folder: Path) -> bool:
    """Whether a process holds the lock of a run folder; changes nothing in it."""
    with suppress(OSError), open(folder / LOCK) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # freed when the file is closed
        except OSError as error:
            return isinstance(error, TAKEN)
    return False


def _close_in_fork() -> None:
    """Close the locks in a fork, which may outlive the process that has the run."""
    for descriptor in HELD:
        with suppress(OSError):
            os.close(descriptor)
    HELD.clear()


os.register_at_fork(after_in_child=_close_in_fork)
