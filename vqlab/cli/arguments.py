"""Command-line arguments: configuration files, which are checked before LightningCLI's parser, and a small parser."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from vqlab.errors import UserError, suggest
from vqlab.experiments.experiment import KEYS
from vqlab.experiments.settings import read_yaml

PACKAGE = Path(__file__).parents[1]  # a wheel has configs/ in it


class Parser(argparse.ArgumentParser):
    """Argparse that raises UserError."""

    def error(self, message: str) -> NoReturn:
        """Raise ``message`` in one line."""
        raise UserError(f"{message}: see {self.prog} --help")


def values_of(args: Sequence[str], *options: str) -> list[str]:
    """Return the values of ``options`` in ``args``, as in ``--config=a.yaml`` and ``--config a.yaml``."""
    split = [(*arg.partition("="), following) for arg, following in zip(args, [*args[1:], ""], strict=True)]
    return [value if mark else following for name, mark, value, following in split if name in options]


def with_builtin_configs(args: Sequence[str]) -> list[str]:
    """Replace ``configs/x.yaml`` by the path of vqlab's own file if the current folder has no such file."""
    found = []
    for arg in args:
        before, mark, path = arg.rpartition("=")
        builtin = path.startswith("configs/") and not Path(path).exists() and (PACKAGE / path).is_file()
        found.append(f"{before}{mark}{PACKAGE / path}" if builtin else arg)
    return found


def read_configs(args: Sequence[str]) -> list[dict[str, Any]]:
    """Return the content of each ``--config`` file; raises UserError, which names the file."""
    configs = []
    for value in values_of(args, "--config", "-c"):
        if value.startswith("{"):  # YAML instead of a path
            continue
        path = Path(value)
        if not path.is_file():
            known = [str(file) for folder in (path.parent, Path("configs")) for file in folder.glob("*.y*ml")]
            raise UserError(f"--config {value or 'FILE'} is not a file: {suggest(value, known, 'give a .yaml file')}")
        config = read_yaml(path)
        if "base" in config and {*config} <= {*KEYS}:
            raise UserError(f"{path} is an experiment file: run vqlab sweep {path}")
        configs.append(config)
    return configs
