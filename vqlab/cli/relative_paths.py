"""Relative paths in a checkpoint's own configuration: they start where its run was started."""

import os
from pathlib import Path
from typing import Any

# Arguments of models and data that name files, besides those that end in ``path``.
FILES = ("tokenizer", "backbone", "source", "target", "charset", "stop_words")


def from_start(value: Any, start: Path) -> tuple[Any, list[str]]:
    """Let relative paths be found from the current folder, too.

    Args:
        value: A configuration of model and data.
        start: The folder that its run was started in.

    Returns:
        The configuration, and the texts that name a file neither here nor there.

    Example:
        >>> Path("started").mkdir()
        >>> _ = Path("started/a.npz").write_text("")
        >>> from_start({"data": {"init_args": {"path": ["a.npz", "b.npz"], "array": "a.npz"}}}, Path("started"))
        ({'data': {'init_args': {'path': ['started/a.npz', 'b.npz'], 'array': 'a.npz'}}}, ['b.npz'])
    """
    if not isinstance(value, dict):
        return value, []
    found, lost = {}, []
    for name, given in value.items():
        if not (name in FILES or str(name).endswith("path")) or name == "class_path" or isinstance(given, dict):
            found[name], more = from_start(given, start)
            lost += more
            continue
        paths = given if isinstance(given, list) else [given]
        here = [
            os.path.relpath(start / path) if is_relative(path) and is_there(start / path) else path for path in paths
        ]
        lost += [path for path in here if is_relative(path) and not is_there(Path(path))]
        found[name] = here if isinstance(given, list) else here[0]
    return found, lost


def is_relative(path: Any) -> bool:
    """Whether a value is a text that may be a relative path."""
    return isinstance(path, str) and not os.path.isabs(path) and "://" not in path


def is_there(path: Path) -> bool:
    """Whether there is a file or folder; a text that is too long for a path is none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
