"""Lists of files, downloads, progress, and errors of readers."""

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from vqlab.errors import UserError, read_error

WITHOUT_NETWORK = "without a network use Photos, Digits, ImageArrays or ImageFolder"
MANY = 2000  # items above which progress is shown
SYSTEM_NAMES = {"__macosx", "@eadir", "__pycache__", "thumbs.db", "desktop.ini"}  # of operating systems and tools

T = TypeVar("T")


def list_files(root: Path, extensions: tuple[str, ...], what: str) -> list[Path]:
    """Return the files of :func:`find_files`, or raise UserError if there are none."""
    files = find_files(root, extensions)
    if not files:
        kinds = f" ({', '.join(extensions)})" if any(extensions) else ""
        problem = f"holds no {what}{kinds}" if root.is_dir() else "is not a folder"
        raise UserError(f"{root} {problem}: set path=FOLDER to a folder of {what}")
    return files


def find_files(root: Path, extensions: tuple[str, ...]) -> list[Path]:
    """Return the files at any depth of a folder with one of the lower-case extensions, sorted, without hidden ones."""
    files: list[Path] = []
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [name for name in folders if real not in seen and not is_hidden(name)]
        if real not in seen:
            files += [Path(folder, name) for name in names if name.lower().endswith(extensions) and not is_hidden(name)]
        seen.add(real)
    return sorted(files)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or written by an operating system or a tool."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def counted(items: Iterable[T], count: int, done: str, what: str) -> Iterator[T]:
    """Yield ``items``, and print the progress if there are many."""
    for number, item in enumerate(items, start=1):
        yield item
        if count > MANY and (number % 500 == 0 or number == count):
            end = "\n" if number == count else ""
            print(f"\r{done} {number} of {count} {what}", end=end, file=sys.stderr, flush=True)


@contextmanager
def reading(name: str | Path, damaged: str) -> Iterator[None]:
    """Convert errors of a reader to UserError: the name, then ``damaged`` with its ``{reason}``."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # readers raise many kinds of errors for damaged files
        texts = (str(error), str(error.__cause__ or ""), type(error).__name__)
        # Some errors have no text, and some of fsspec contain only the URL.
        reason = next(" ".join(text.split())[:100] for text in texts if text.strip() not in ("", str(name)))
        raise read_error(name, error, f"{name} {damaged.format(reason=reason)}") from error


def download_whole(
    name: str, root: str, folder: str, archives: str, download: Callable[[str], object], hint: str = WITHOUT_NETWORK
) -> None:
    """Call ``download(temporary_root)``, which writes ``temporary_root/folder``, and move the files to ``root/folder``.

    ``archives`` is a pattern of files under ``root`` that are not downloaded again.
    """
    before = socket.getdefaulttimeout()
    target = Path(root) / folder
    try:
        Path(root).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as partial:
            for archive in filter(Path.is_file, Path(root).glob(archives)):
                copy = Path(partial) / archive.relative_to(root)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(archive, copy)
            socket.setdefaulttimeout(10)  # seconds
            download(partial)
            shutil.copytree(Path(partial) / folder, target, copy_function=os.replace, dirs_exist_ok=True)
    except (OSError, RuntimeError, EOFError) as error:  # URLError and timeouts are OSErrors
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name} could not be downloaded ({reason}): copy it to {target}; {hint}") from error
    finally:
        socket.setdefaulttimeout(before)
