"""Files that appear whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from vqlab.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_WRITABLE = (
    *(errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR),  # a file stands where a folder should be, or a folder for a file
)


@contextmanager
def write_atomic(path: str | Path, setting: str = "--runs") -> Iterator[IO[bytes]]:
    """Open a binary file that takes the place of ``path`` when the block ends, and vanishes if it fails.

    Raises:
        UserError: If the disk is full or the folder cannot be written.

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
    """Open a file for ``open(..., opener=no_link)``, unless it is a link, which may lead out of a foreign folder."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def append(path: Path, text: str) -> None:
    """Add ``text`` at the end of a file, in one piece unless the process is killed."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", newline="", opener=no_link) as file:
            file.write(text)


@contextmanager
def disk_errors(path: Path, setting: str = "--runs") -> Iterator[None]:
    """Turn what a disk refuses while ``path`` is written into one line for the user."""
    try:
        yield
    except BaseException as error:
        # torch.save reports a full disk as a RuntimeError raised while the OSError is handled.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError) or cause.errno not in FULL + NOT_WRITABLE:
            raise
        reason = f"no space left for {path}" if cause.errno in FULL else f"{path} cannot be written"
        raise UserError(f"{reason} ({cause.strerror}): set {setting} to another place") from error
