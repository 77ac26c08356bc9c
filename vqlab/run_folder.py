"""The folder of a run: where a new one goes, and what a checkpoint's own one holds."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml
from jsonargparse import Namespace

from vqlab.errors import UserError
from vqlab.experiments.checkpoint_outline import read_outline, require_file
from vqlab.experiments.run_files import LARGEST_TEXT, read_text
from vqlab.experiments.run_state import CONFIG
from vqlab.experiments.settings import parse_yaml
from vqlab.relative_paths import from_start
from vqlab.trust import Untrusted, trusted

STARTED_IN = "started_in"  # entry of a checkpoint: the folder where its run was started, relative to the run's folder


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


def with_run_config(args: list[str], callbacks: Mapping[str, type]) -> tuple[list[str], list[str]]:
    """Put a checkpoint's own configuration in front if one is given and no config, model or data is.

    It is the one that the checkpoint holds, or else the config.yaml of its run, and holds no more than ``trusted``
    lets pass.

    Args:
        args: The command and its arguments.
        callbacks: The class of each group of options that belongs to one of vqlab's callbacks.

    Returns:
        The arguments, and relative paths in the checkpoint's configuration that lead nowhere.

    Raises:
        UserError: If there is no such checkpoint, or its configuration names what only the user may name.
    """
    command, rest = args[0], args[1:]
    given = [arg.split("=")[0] for arg in rest]
    if "--ckpt_path" not in given or {"--config", "-c", "--model", "--data"} & {*given}:
        return args, []
    at = given.index("--ckpt_path")
    named = rest[at].partition("=")[2] or "".join(rest[at + 1 : at + 2])
    if not named:
        return args, []
    path = require_file(named)
    folder = run_of(path)
    outline = read_outline(path)
    text = outline.get("config") or (read_config(folder) if folder else None)
    if text is None:
        return args, []
    trust = f"pass {f'--config {folder / CONFIG}' if folder else 'a --config of your own'} to trust it"
    if not isinstance(text, str) or len(text) > LARGEST_TEXT:
        raise UserError(f"this run's config is no text of a usual length: {trust}")
    try:
        config = trusted(parse_yaml(text.encode(), Path(CONFIG)), callbacks)
    except Untrusted as error:
        raise UserError(f"this run's config names {error}: {trust}") from error
    except UserError as error:
        raise UserError(f"this run's config cannot be read ({error.line[:120]}): {trust}") from error
    lost: list[str] = []
    if folder:
        start = outline.get(STARTED_IN)
        found, lost = from_start(
            {name: config[name] for name in ("model", "data") if name in config},
            folder.resolve() / (start if isinstance(start, str) else "../../.."),
        )
        config |= found
    return [command, f"--config={yaml.safe_dump(config, sort_keys=False, allow_unicode=True)}", *rest], lost


@contextmanager
def naming_lost_paths(lost: list[str]) -> Iterator[None]:
    """Say of an error about a path that it comes from the checkpoint, and that it was relative to another folder."""
    try:
        yield
    except UserError as error:
        path = next((path for path in lost if path in str(error)), None)
        if path is None:
            raise
        raise UserError(
            f"{error} ({path} comes from the checkpoint, relative to the folder where its run was started)"
        ) from error


def read_config(folder: Path) -> str:
    """Return the text of a run's config.yaml."""
    try:
        return read_text(folder, CONFIG)
    except OSError as error:
        raise UserError(f"{folder / CONFIG} cannot be read ({error.strerror}): pass --config") from error
