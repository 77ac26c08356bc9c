"""The folder of a run: where a new one goes, and what a checkpoint's own one holds."""

import os
import time
from pathlib import Path

from jsonargparse import Namespace

from vqlab.errors import UserError


def find_run_folder(config: Namespace) -> Path:
    """Return the folder of this run: that of the checkpoint which is resumed or evaluated, or a new one.

    Raises:
        UserError: If the name is taken.
    """
    path = config.get("ckpt_path")
    if path and (folder := run_of(path)):
        return folder
    folder = folder_of(config, config.name or time.strftime("%Y%m%d-%H%M%S"))
    if (folder / "config.yaml").exists() or (folder / "checkpoints").exists():
        if config.name:
            last = folder / "checkpoints" / "last.ckpt"
            raise UserError(f"{folder} holds a run: choose another --name, or resume with --ckpt_path {last}")
        folder = folder.with_name(f"{folder.name}-{os.getpid()}")
    return folder


def requeued_from(config: Namespace) -> str | None:
    """Return the ``last.ckpt`` of this named run if SLURM has started the same command before, and it got that far."""
    if not config.name or os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return None
    last = folder_of(config, config.name) / "checkpoints" / "last.ckpt"
    return str(last) if last.exists() else None


def folder_of(config: Namespace, name: str) -> Path:
    """Return the folder of the run of this ``name``."""
    return Path(config.runs) / config.model.class_path.rpartition(".")[2].lower() / name


def run_of(checkpoint: str | Path) -> Path | None:
    """Return the run folder that ``checkpoint`` lies in, if it lies in one."""
    folder = Path(checkpoint).parent.parent
    return folder if (folder / "config.yaml").exists() else None


def with_run_config(args: list[str]) -> list[str]:
    """Put the run's own config.yaml in front if a checkpoint of a run is given and no config or model is."""
    command, rest = args[0], args[1:]
    if any(arg.split("=")[0] in ("--config", "-c", "--model", "--data") for arg in rest):
        return args
    for i, arg in enumerate(rest):
        if arg == "--ckpt_path" and i + 1 < len(rest):
            path = rest[i + 1]
        elif arg.startswith("--ckpt_path="):
            path = arg.partition("=")[2]
        else:
            continue
        if not Path(path).is_file():
            raise UserError(f"checkpoint {path} does not exist: look under runs/<model>/<name>/checkpoints/")
        if folder := run_of(path):
            return [command, "--config", str(folder / "config.yaml"), *rest]
    return args
