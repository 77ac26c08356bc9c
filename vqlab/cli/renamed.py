"""Options of earlier versions, as they are called now."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from vqlab.serialization import MOVED


def with_current_options(args: Sequence[str]) -> list[str]:
    """Return ``args`` with the model's options under their current names; a line on stderr names those that moved.

    Example:
        >>> with_current_options(["fit", "--model=SGAN", "--model.clip_d=1", "--model.lr=0.1"])
        ['fit', '--model=SGAN', '--model.optimization.disc_clip=1', '--model.lr=0.1']
    """
    moved = MOVED.get(_model_name(args), {})
    current = []
    for arg in args:
        name, mark, rest = arg.removeprefix("--model.").partition("=")
        first, dot, inner = name.partition(".")
        if arg.startswith("--model.") and first in moved and not moved[first].startswith(f"{first}."):
            option = f"--model.{moved[first]}{dot}{inner}"
        elif arg.startswith("--model.") and not dot and first in moved:  # now the name of a group of options
            option = f"--model.{moved[first]}"
        else:
            current.append(arg)
            continue
        print(f"vqlab: --model.{name} is now {option}", file=sys.stderr)
        current.append(f"{option}{mark}{rest}")
    return current


def _model_name(args: Sequence[str]) -> str:
    """Return the name of the class that ``--model`` or a configuration chooses, the last one."""
    name = ""
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        option, mark, value = arg.partition("=")
        value = value if mark else following
        if option in ("--model", "--model.class_path"):
            name = value
        elif option in ("--config", "-c"):
            name = _model_of(value) or name
    return name.rpartition(".")[2]


def _model_of(path: str) -> str:
    """Return the model's class path in a configuration; the parser reports what is wrong with the file."""
    try:
        config: Any = yaml.safe_load(Path(path).read_text())
        model = config["model"]
        return model if isinstance(model, str) else str(model["class_path"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return ""
