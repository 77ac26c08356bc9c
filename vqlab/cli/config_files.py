"""Configuration files: those that come with vqlab, and checks before the parser, whose errors do not name the file."""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vqlab.errors import UserError
from vqlab.experiments.settings import read_yaml

PACKAGE = Path(__file__).parents[1]  # an installed one has configs/ in it
SWEEP_KEYS = {"base", "common", "rows", "grid", "seeds", "space"}


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


def check_configs(args: Sequence[str], groups: Iterable[str]) -> None:
    """Raise UserError for the first ``--config`` among ``args`` that is no configuration.

    Args:
        args: The command's arguments.
        groups: Names of the groups of options, such as trainer.
    """
    for place, arg in enumerate(args):
        name, mark, value = arg.partition("=")
        if name not in ("--config", "-c") or value.startswith("{") or "\n" in value:  # the configuration itself
            continue
        value = value if mark else "".join(args[place + 1 : place + 2])
        if not value or not (path := Path(value)).is_file():
            raise UserError(f"--config {value or 'FILE'} {_similar(Path(value)) if value else 'needs a file'}")
        config = read_yaml(path)
        if "base" in config and {*config} <= SWEEP_KEYS:
            raise UserError(f"{path} is an experiment file: run vqlab sweep {path}")
        _check_classes(config, str(path), "")
        for group in {*groups} & {*config}:
            if not isinstance(config[group], (dict, str)):
                rule = "a class such as VQVAE or Digits" if group in ("model", "data") else "a mapping of options"
                raise _wrong(config[group], str(path), group, rule)


def _similar(path: Path) -> str:
    """Describe what ``path`` is instead of a file, and name the configuration that was probably meant."""
    if path.is_dir():
        files = sorted(path.glob("*.y*ml"), key=lambda file: file.name != "config.yaml")
        return f"is a folder: give {files[0]}" if files else "is a folder without configurations: give a .yaml file"
    builtin = [Path("configs", file.name) for folder in (PACKAGE, Path()) for file in folder.glob("configs/*.yaml")]
    known = {file.stem: file for file in [*builtin, *path.parent.glob("*.y*ml")]}
    close = difflib.get_close_matches(path.stem, known, n=1, cutoff=0.7)
    return f"does not exist: did you mean {known[close[0]]}?" if close else "does not exist: check the path"


def _check_classes(value: Any, file: str, name: str) -> None:
    """Raise UserError where a class with its arguments is not written as one."""
    if isinstance(value, list):
        for place, item in enumerate(value):
            _check_classes(item, file, f"{name}[{place}]")
    if not isinstance(value, dict):
        return
    if "class_path" in value:
        if not isinstance(value["class_path"], str):
            raise _wrong(value["class_path"], file, f"{name}.class_path", "the name of a class")
        if extra := next((key for key in value if key not in ("class_path", "init_args", "dict_kwargs")), None):
            raise UserError(f"{file}: {extra} is beside {name}.class_path: move it into {name}.init_args")
    if "init_args" in value and not isinstance(value["init_args"], dict):
        raise _wrong(value["init_args"], file, f"{name}.init_args", "a mapping of options")
    for key, part in value.items():
        _check_classes(part, file, f"{name}.{key}".lstrip("."))


def _wrong(value: Any, file: str, name: str, rule: str) -> UserError:
    if value is None:
        return UserError(f"{file} has nothing under {name}: remove that line, or give it a value")
    return UserError(f"{file}: {name} must be {rule}, got {value!r}")
