"""Configuration files among the arguments, read before the parser, whose errors do not name the file."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vqlab.errors import UserError
from vqlab.experiments.settings import read_yaml

PACKAGE = Path(__file__).parents[1]  # an installed one has configs/ in it
SWEEP_KEYS = {"base", "common", "rows", "grid", "seeds", "space"}


def values_of(args: Sequence[str], *options: str) -> list[str]:
    """Return the values that ``args`` give to options.

    Example:
        >>> values_of(["fit", "--config=a.yaml", "-c", "b.yaml", "--name", "x"], "--config", "-c")
        ['a.yaml', 'b.yaml']
    """
    split = [(*arg.partition("="), following) for arg, following in zip(args, [*args[1:], ""], strict=True)]
    return [value if mark else following for name, mark, value, following in split if name in options]


def with_builtin_configs(args: Sequence[str]) -> list[str]:
    """Let ``configs/x.yaml`` stand for the one that comes with vqlab, where the current folder has none.

    Example:
        >>> with_builtin_configs(["fit", "--config=configs/none.yaml"])
        ['fit', '--config=configs/none.yaml']
    """
    found = []
    for arg in args:
        before, mark, path = arg.rpartition("=")
        builtin = path.startswith("configs/") and not Path(path).exists() and (PACKAGE / path).is_file()
        found.append(f"{before}{mark}{PACKAGE / path}" if builtin else arg)
    return found


def read_configs(args: Sequence[str]) -> list[dict[str, Any]]:
    """Return the content of each file behind ``--config``."""
    configs = []
    for value in values_of(args, "--config", "-c"):
        if value.startswith("{"):  # the configuration itself
            continue
        path = Path(value)
        if not path.is_file():
            known = [str(file) for folder in (path.parent, Path("configs")) for file in folder.glob("*.y*ml")]
            close = difflib.get_close_matches(value, known, n=1)
            hint = f"did you mean {close[0]}?" if close else "give a .yaml file"
            raise UserError(f"--config {value or 'FILE'} is no file: {hint}")
        config = read_yaml(path)
        if "base" in config and {*config} <= SWEEP_KEYS:
            raise UserError(f"{path} is an experiment file: run vqlab sweep {path}")
        configs.append(config)
    return configs
