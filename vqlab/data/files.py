"""Files of a folder at any depth, progress of a long reading, and errors of readers."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from vqlab.errors import UserError, read_error

MANY = 2000  # items above which progress is shown
# What operating systems and tools leave beside data, in lower case; names that start with a dot are hidden, too.
LEFTOVERS = {"__macosx", "@eadir", "__pycache__", "thumbs.db", "desktop.ini"}

T = TypeVar("T")


def list_files(root: Path, extensions: tuple[str, ...], what: str) -> list[Path]:
    """Return what :func:`find_files` returns; raise UserError if there are none, or no folder."""
    files = find_files(root, extensions)
    if not files:
        kinds = f" ({', '.join(extensions)})" if any(extensions) else ""
        problem = f"holds no {what}{kinds}" if root.is_dir() else "is not a folder"
        raise UserError(f"{root} {problem}: set path=FOLDER to a folder of {what}")
    return files


def find_files(root: Path, extensions: tuple[str, ...]) -> list[Path]:
    """Return the files under a folder with one of the extensions, sorted by path, without hidden files and folders.

    Extensions are in lower case; ``("",)`` takes all files. Links are followed, each real folder once.
    """
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
    """Whether a file or folder is hidden, or left there by an operating system or a tool."""
    return name.startswith(".") or name.lower() in LEFTOVERS


def counted(items: Iterable[T], count: int, done: str, what: str) -> Iterator[T]:
    """Yield ``items``, and show progress if there are many."""
    for number, item in enumerate(items, start=1):
        yield item
        if count > MANY and (number % 500 == 0 or number == count):
            end = "\n" if number == count else ""
            print(f"\r{done} {number} of {count} {what}", end=end, file=sys.stderr, flush=True)


@contextmanager
def reading(name: str | Path, damaged: str) -> Iterator[None]:
    """Turn the errors of a reader into one line for the user: the file is damaged, or there is not enough memory.

    ``damaged`` is the message about a damaged file after its name, with ``{reason}`` for the reader's own message.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # damaged files make readers raise many things
        texts = (str(error), str(error.__cause__ or ""), type(error).__name__)
        # Some errors are empty, and those of fsspec may hold nothing but the URL.
        reason = next(" ".join(text.split())[:100] for text in texts if text.strip() not in ("", str(name)))
        raise read_error(name, error, f"{name} {damaged.format(reason=reason)}") from error
