"""Files of a folder at any depth, and how far a long reading is."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from vqlab.errors import UserError

MANY = 2000  # items above which reading shows how far it is
# What operating systems and tools leave beside data, in lower case; names that start with a dot are hidden, too.
LEFTOVERS = {"__macosx", "@eadir", "__pycache__", "thumbs.db", "desktop.ini"}

T = TypeVar("T")


def list_files(root: Path, extensions: tuple[str, ...], what: str) -> list[Path]:
    """Return the files under a folder with such extensions in the order of their paths.

    Hidden files and folders are left out, and what operating systems leave beside data.

    Args:
        root: The folder.
        extensions: As in ``(".png", ".jpg")``; files' own may be in capitals. ``("",)`` takes all files.
        what: What messages call the files' content.

    Raises:
        UserError: If the folder is missing or holds no such file.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: set --data.path to a folder of {what}")
    files = sorted(
        Path(folder) / name
        for folder, names in _walk(root)
        for name in names
        if name.lower().endswith(extensions) and not is_hidden(name)  # macOS leaves ._name beside each file
    )
    if not files:
        kinds = f" ({', '.join(extensions)})" if any(extensions) else ""
        raise UserError(f"{root} holds no {what}{kinds}: set --data.path to a folder of {what}")
    return files


def list_folders(root: Path) -> list[str]:
    """Return the sorted names of the folders in a folder, without hidden ones; none where there is no such folder."""
    items = root.iterdir() if root.is_dir() else ()
    return sorted(item.name for item in items if item.is_dir() and not is_hidden(item.name))


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or left there by an operating system or a tool."""
    return name.startswith(".") or name.lower() in LEFTOVERS


def counted(items: Iterable[T], count: int, done: str, what: str) -> Iterator[T]:
    """Pass ``items`` on, and show how many of ``count`` are done where these are many."""
    for number, item in enumerate(items, start=1):
        yield item
        if count > MANY and (number % 500 == 0 or number == count):
            end = "\n" if number == count else ""
            print(f"\r{done} {number} of {count} {what}", end=end, file=sys.stderr, flush=True)


@contextmanager
def reading(name: str | Path, damaged: str) -> Iterator[None]:
    """Turn the errors of a reader into one line for the user: the file is damaged, or memory is short.

    Args:
        name: What messages call the file.
        damaged: The message about a damaged file after its name; ``{reason}`` stands for the reader's own message.

    Example:
        >>> with reading("x.wav", "cannot be read ({reason}): remove it"):
        ...     raise OSError("no header")
        Traceback (most recent call last):
        ...
        vqlab.errors.UserError: x.wav cannot be read (no header): remove it
    """
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise memory_short(name) from error
    except Exception as error:  # damaged files make readers raise many things
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise UserError(f"{name} {damaged.format(reason=reason)}") from error


def memory_short(name: str | Path) -> UserError:
    """Return the error about a file for which there was not enough memory."""
    return UserError(f"not enough memory to read {name}: free some, set --data.num_workers lower, or use smaller files")


def _walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    # Links are followed, each real folder once, so that a link to a parent does not lead round in circles.
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield folder, names
