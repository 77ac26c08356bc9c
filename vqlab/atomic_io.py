"""Atomic writes, and one-line errors for full and read-only disks."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from vqlab.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_WRITABLE: tuple[int, ...] = (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP)
NOT_WRITABLE += (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)  # a file instead of a folder, or a folder instead of a file


@contextmanager
def write_atomic(path: str | Path, setting: str = "--runs") -> Iterator[IO[bytes]]:
    """Open a temporary binary file that replaces ``path`` when the block ends, and is removed if the block fails.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with write_atomic(folder / "a.txt") as file:
        ...     _ = file.write(b"whole")
        >>> [(p.name, p.read_text()) for p in folder.iterdir()]
        [('a.txt', 'whole')]
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    with disk_errors(path, setting):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, "wb", opener=no_link) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise


def no_link(path: str, flags: int) -> int:
    """Open a file as ``opener`` of ``open``, but not a symbolic link, which may lead out of a foreign run folder."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def append(path: Path, text: str) -> None:
    """Append ``text`` to a file."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", newline="", opener=no_link) as file:
            file.write(text)


@contextmanager
def disk_errors(path: Path, setting: str = "--runs") -> Iterator[None]:
    """Raise UserError if the disk is full or ``path`` cannot be written."""
    try:
        yield
    except BaseException as error:
        # torch.save raises RuntimeError while it handles the OSError of a full disk.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError) or cause.errno not in FULL + NOT_WRITABLE:
            raise
        reason = f"no space left for {path}" if cause.errno in FULL else f"{path} cannot be written"
        raise UserError(f"{reason} ({cause.strerror}): set {setting} to another place") from error
