"""One process per row, on all machines that share the folder, whatever is killed."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vqlab.errors import UserError
from vqlab.whole_files import disk_errors

LOCK = ".lock"
TAKEN = (errno.EAGAIN, errno.EACCES)  # what flock says where another process has the lock


@contextmanager
def row_lock(folder: Path, wait: bool = False) -> Iterator[int | None]:
    """Hold the lock of a folder while the block runs; yields its file descriptor, or None if another process has it.

    With ``wait`` it is waited for.

    The kernel frees the lock when the last process that has the descriptor open ends, so none is ever stale. A child
    that inherits the descriptor keeps the row even when the sweep that started it is killed.

    Raises:
        UserError: If the folder cannot be written, or its file system has no locks.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in TAKEN:
                raise UserError(f"{folder} cannot be locked ({error.strerror}): set --runs to another disk") from error
            yield None
        else:
            yield descriptor
    finally:
        os.close(descriptor)


def is_running(folder: Path) -> bool:
    """Whether a process holds the lock of a run folder; changes nothing in it."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # frees it again when the descriptor is closed
    except OSError as error:
        return error.errno in TAKEN
    finally:
        os.close(descriptor)
    return False
