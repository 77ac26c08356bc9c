"""The format of the training data, which a checkpoint stores, and its comparison with other data."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vqlab.errors import UserError

ENTRY = "data_format"  # key in a DataModule's state in a checkpoint, and attribute of a model
NAMES = {"sample_rate": "samples per second", "value_range": "value range"}
SHOWN = 80  # characters of a value in a message

Format = dict[str, Any]


def check_format(trained: Format, given: Format, option: Callable[[str, Any], str]) -> None:
    """Raise UserError if the format of the data differs from that of the training data.

    Entries that are missing in one of them are not compared; ``option`` returns the option that sets an entry.
    """
    names = [name for name in trained if name in given and trained[name] != given[name]]
    if names:
        was = ", ".join(f"{NAMES.get(name, name)} {str(trained[name])[:SHOWN]}" for name in names)
        now = ", ".join(str(given[name])[:SHOWN] for name in names)
        options = " ".join(option(name, trained[name]) for name in names)
        raise UserError(f"the checkpoint was trained on {was}, the data have {now}: set {options}")


def source_of(data: Any) -> str:
    """Return a text that identifies the source of data: files by name and size, folders by path."""
    paths = getattr(data, "path", None)
    found = []
    for path in paths if isinstance(paths, list) else [paths]:
        if path is not None and Path(path).is_file():
            found.append(f"{Path(path).name} {os.path.getsize(path)}")
        else:
            found.append(str(path) if path is None or "://" in path else os.path.realpath(path))
    return f"{type(data).__name__} {hashlib.sha256('|'.join(found).encode()).hexdigest()[:16]}"


def stored_format(checkpoint: dict[str, Any]) -> Format | None:
    """Return the format of the data that a checkpoint was trained on, None if it is not stored."""
    for state in checkpoint.values():
        if isinstance(state, dict) and isinstance(state.get(ENTRY), dict):
            return state[ENTRY]
    return None
