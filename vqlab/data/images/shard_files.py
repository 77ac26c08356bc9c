"""Tar files on a disk or behind a URL, opened for reading at any place; those behind a URL through copies on disk."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO

import fsspec

from vqlab.atomic_io import disk_errors
from vqlab.data.images.tar_index import checksum
from vqlab.errors import UserError

AGAIN = "copy it again, or write the index again by python -m vqlab.cli.write_shards --index FOLDER"
OPEN = 64  # files that a process keeps open


def is_url(path: str) -> bool:
    """Return whether a path is something for fsspec: ``https://...``, ``s3://...``."""
    return "://" in path


@contextmanager
def url_errors(url: str) -> Iterator[None]:
    """Turn what the network or the store says into one line for the user."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each store raises its own kinds
        said = " ".join(str(error.__cause__ or error).split())[:200]  # fsspec's own error may be nothing but the URL
        reason = said or type(error).__name__
        raise UserError(f"{url} cannot be read ({reason}): check --data.path, the network and the key") from error


@lru_cache(maxsize=OPEN)
def open_shard(path: str, length: int, cache: str, limit: int, checksum: str) -> IO[bytes]:
    """Open a shard for ``os.pread``; it is kept open, and what is open can be read though it be deleted.

    Args:
        path: File, or URL.
        length: Bytes that it must have.
        cache: Folder for copies of what lies behind a URL.
        limit: Bytes that the copies may take; the one least recently opened goes first.
        checksum: SHA-256 that a copy must have.

    Raises:
        UserError: If it is missing or has another length, or, behind a URL, another checksum than its index states.
    """
    if is_url(path):
        return _open_copy(path, length, Path(cache), limit, checksum)
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{path} cannot be opened ({reason}): set --data.path to where the shards are") from error
    require_length(path, os.fstat(file.fileno()).st_size, length)
    return file


def require_length(path: str, found: int | None, length: int) -> None:
    """Raise a UserError unless a shard has the bytes that its index states; ``found`` is None without a file."""
    if found != length:
        got = "is missing" if found is None else f"has {found} bytes"
        raise UserError(f"{path} {got} where its index states {length} bytes: {AGAIN}")


def _open_copy(url: str, length: int, folder: Path, limit: int, expected: str) -> IO[bytes]:
    """Fetch a URL unless a sound copy is there; processes that want the same one wait for the first."""
    copy = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.tar"
    with disk_errors(copy, "--data.cache"):
        folder.mkdir(parents=True, exist_ok=True)
        with open(copy.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if copy.exists() and checksum(copy) == expected:  # with another, other shards lie at the URL now
                os.utime(copy)
                return open(copy, "rb")
            partial = copy.with_suffix(".partial")
            try:
                with url_errors(url):
                    filesystem, path = fsspec.url_to_fs(url)
                    filesystem.get_file(path, str(partial))
                require_length(url, partial.stat().st_size, length)
                if checksum(partial) != expected:
                    raise UserError(f"{url} has another checksum than its index states: {AGAIN}")
                os.replace(partial, copy)
            finally:
                partial.unlink(missing_ok=True)
            file = open(copy, "rb")  # noqa: SIM115
    _make_room(folder, limit, keep=copy)
    return file


def _make_room(folder: Path, limit: int, keep: Path) -> None:
    found = []
    for copy in folder.glob("*.tar"):
        with suppress(FileNotFoundError):  # another process makes room, too
            found.append((copy.stat().st_mtime, copy.stat().st_size, copy))
    total = sum(size for _, size, _ in found)
    for _, size, copy in sorted(found):
        if total <= limit:
            break
        if copy != keep:
            copy.unlink(missing_ok=True)
            total -= size
