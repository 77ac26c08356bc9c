"""The folder of a run: where a new one goes, and what a checkpoint's own one holds."""

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_only

from vqlab.errors import UserError
from vqlab.experiments.row_lock import row_lock
from vqlab.experiments.run_state import LAST, begin_again, holds_run

LONGEST = 255  # bytes that file systems take for a name


@contextmanager
def held_run_folder(config: Namespace, command: str) -> Iterator[Path]:
    """Yield the folder of this run: that of the checkpoint which is resumed or evaluated, or a new one.

    Its lock is held in the block by the first process of all, unless a checkpoint is evaluated in its own folder, which
    may be that of a run in progress. The other processes have no say: they write nothing, and get the folder's name
    from the first when they meet (:class:`~vqlab.start_run.StartRun`).

    Raises:
        UserError: If the name is no name or taken, another process trains in the folder, or it cannot be made.
    """
    if config.name is not None:
        check_name(config.name)
    if config.overwrite and not config.name:
        raise UserError("--overwrite begins the run of a --name anew: add --name")
    if config.overwrite and config.get("ckpt_path"):
        raise UserError("--overwrite begins a run anew and --ckpt_path resumes one: leave out one of them")
    own = run_of(config.ckpt_path) if config.get("ckpt_path") else None
    if not is_first_process() or (own and command != "fit"):
        yield own or folder_of(config, config.name or "run")
        return
    with ExitStack() as held:
        if own or config.name:
            folder = own or folder_of(config, config.name)
            if held.enter_context(row_lock(folder)) is None:
                raise UserError(f"{folder} is in use by another process: wait for its end, or choose another --name")
            if not own and holds_run(folder):
                make_room(folder, config.overwrite)
        else:
            folder = free_folder(folder_of(config, time.strftime("%Y%m%d-%H%M%S")), held)
        yield folder


def check_name(name: str) -> None:
    """Raise UserError unless ``name`` is that of a file, and not a path.

    Example:
        >>> check_name("../up")
        Traceback (most recent call last):
        ...
        vqlab.errors.UserError: --name must be a plain file name, without slashes, of at most 255 bytes, got '../up'
    """
    plain = name.isprintable() and not set(name) & {"/", "\\"} and name not in ("", ".", "..")
    if not plain or len(name.encode()) > LONGEST:
        shown = name if len(name) < 60 else f"{name[:60]}..."
        raise UserError(f"--name must be a plain file name, without slashes, of at most {LONGEST} bytes, got {shown!r}")


def is_first_process() -> bool:
    """Whether this is the first process of all, or the one that starts the others."""
    node = os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or "0"
    return rank_zero_only.rank == 0 and node == "0"  # type: ignore[attr-defined]


def make_room(folder: Path, overwrite: bool) -> None:
    """Empty the folder of a run if that is wanted.

    Raises:
        UserError: If it is not.
    """
    if overwrite:
        begin_again(folder)
    elif (folder / LAST).exists():
        raise UserError(
            f"{folder} holds a run: choose another --name, resume with --ckpt_path {folder / LAST}, or begin it anew "
            "with --overwrite"
        )
    else:
        raise UserError(
            f"{folder} holds a run that has no last.ckpt: choose another --name, or begin it anew with --overwrite"
        )


def free_folder(wanted: Path, held: ExitStack) -> Path:
    """Return ``wanted`` or, where it is taken, ``wanted-2`` and so on; ``held`` holds its lock."""
    for number in itertools.count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        with ExitStack() as attempt:
            if attempt.enter_context(row_lock(folder)) is not None and not holds_run(folder):
                held.enter_context(attempt.pop_all())
                return folder
    raise AssertionError


def requeued_from(config: Namespace) -> str | None:
    """Return the ``last.ckpt`` of this named run if SLURM has started the same command before.

    A run that did not get that far is begun anew.
    """
    if not config.name or os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return None
    last = folder_of(config, config.name) / LAST
    config.overwrite = not last.exists()
    return None if config.overwrite else str(last)


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
