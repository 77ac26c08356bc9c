"""Choose and lock the folder of a run, and read the configuration of a checkpoint."""

import itertools
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_only

from vqlab.cli.arguments import values_of
from vqlab.cli.trust import Untrusted, trusted
from vqlab.errors import UserError
from vqlab.experiments.checkpoint_header import read_header, require_file
from vqlab.experiments.run_state import CONFIG, LAST, LOCK, clear_run, holds_run, row_lock
from vqlab.experiments.settings import parse_yaml
from vqlab.serialization import current_config

STARTED_IN = "started_in"  # entry of a checkpoint: the folder where its run was started, relative to the run folder
LONGEST = 255  # bytes of a file name
# Arguments of models and data that name files, besides arguments that end in ``path``.
FILES = ("tokenizer", "backbone", "source", "target", "charset", "stop_words")


@contextmanager
def held_run_folder(config: Namespace, command: str) -> Iterator[Path]:
    """Yield the folder of this run: the folder of the checkpoint that is resumed or evaluated, or a new one.

    The first process holds the folder's lock in the block, unless a checkpoint is evaluated in its own folder, where a
    training may be in progress. A new folder is removed if the block fails before the first batch. The other processes
    write nothing, and get the name of the folder from the first process (``StartRun``).
    """
    if (name := config.name) is not None and (
        not name.isprintable() or name in ("", "..") or Path(name).name != name or len(name.encode()) > LONGEST
    ):
        rule = f"a plain file name, without slashes, of at most {LONGEST} bytes"
        raise UserError(f"--name must be {rule}, got {name[:60]!r}")
    if config.overwrite and not name:
        raise UserError("--overwrite starts the run of a --name again: add --name")
    if config.overwrite and config.get("ckpt_path"):
        raise UserError("--overwrite starts a run again and --ckpt_path resumes one: leave out one of them")
    own = run_of(config.ckpt_path) if config.get("ckpt_path") else None
    node = os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or "0"
    is_first = rank_zero_only.rank == 0 and node == "0"  # type: ignore[attr-defined]
    if not is_first or (own and command != "fit"):
        yield own or folder_of(config, name or "run")
        return
    with ExitStack() as held:
        if own or name:
            folder = own or folder_of(config, name)
            if held.enter_context(row_lock(folder)) is None:
                raise UserError(f"{folder} is in use by another process: wait for its end, or choose another --name")
            if not own and holds_run(folder):
                if not config.overwrite:
                    last = folder / LAST
                    what = f"a run: resume with --ckpt_path {last}," if last.exists() else "a run with no last.ckpt:"
                    raise UserError(f"{folder} holds {what} choose another --name, or start it again with --overwrite")
                clear_run(folder)
        else:
            folder = free_folder(folder_of(config, time.strftime("%Y%m%d-%H%M%S")), held)
        is_new, failed = is_bare(folder), True
        try:
            yield folder
            failed = False
        finally:
            # StartRun writes config.yaml at the first batch; W&B may still write into its own folder.
            started = holds_run(folder) or (folder / "wandb").exists()
            if is_new and not started and (failed or is_bare(folder)):
                remove(folder)


def free_folder(wanted: Path, held: ExitStack) -> Path:
    """Return the first free folder of ``wanted``, ``wanted-2`` and so on; ``held`` holds its lock."""
    for number in itertools.count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        with ExitStack() as attempt:
            if attempt.enter_context(row_lock(folder)) is not None and not holds_run(folder):
                held.enter_context(attempt.pop_all())
                return folder
    raise AssertionError


def is_bare(folder: Path) -> bool:
    """Return whether the folder exists and holds at most its lock."""
    return folder.is_dir() and all(path.name == LOCK for path in folder.iterdir())


def remove(folder: Path) -> None:
    """Remove a run folder, and the folders of the model and of all runs if they are empty then."""
    with suppress(OSError):
        shutil.rmtree(folder)
        for parent in folder.parents[:2]:
            parent.rmdir()


def requeued_from(config: Namespace) -> str | None:
    """Return ``last.ckpt`` of this named run if SLURM has requeued the job; without it, the run starts again."""
    if not config.name or os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return None
    last = folder_of(config, config.name) / LAST
    config.overwrite = not last.exists()
    return None if config.overwrite else str(last)


def folder_of(config: Namespace, name: str) -> Path:
    """Return the folder of the run of this ``name``."""
    return Path(config.runs) / config.model.class_path.rpartition(".")[2].lower() / name


def run_of(checkpoint: str | Path) -> Path | None:
    """Return the run folder of ``checkpoint``, None if it lies elsewhere."""
    folder = Path(checkpoint).parent.parent
    return folder if (folder / CONFIG).exists() else None


def with_run_config(args: list[str], callbacks: Mapping[str, type]) -> list[str]:
    """Put the ``trusted`` config of a checkpoint or its run before ``args`` without config, model and data."""
    checkpoints = values_of(args, "--ckpt_path")
    if not any(checkpoints) or values_of(args, "--config", "-c", "--model", "--data"):
        return args
    path = require_file(checkpoints[0])
    folder, header = run_of(path), read_header(path)
    trust = f"pass {f'--config {folder / CONFIG}' if folder else 'a --config of your own'} to trust it"
    try:
        text = header.get("config") or ((folder / CONFIG).read_text("utf-8") if folder else None)
        if text is None:
            return args
        if not isinstance(text, str):
            raise UserError("it is not text")
        config = trusted(current_config(parse_yaml(text.encode(), Path(CONFIG))), callbacks)
    except Untrusted as error:
        raise UserError(f"this run's config names {error}: {trust}") from error
    except (OSError, UserError) as error:
        raise UserError(f"this run's config cannot be read ({str(error)[:120]}): {trust}") from error
    if folder:
        started_in = header.get(STARTED_IN)
        start = folder.resolve() / (started_in if isinstance(started_in, str) else "../../..")
        config |= {group: from_start(config[group], start) for group in ("model", "data") if group in config}
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, default_flow_style=True, width=10**9)
    return [args[0], f"--config={text}", *args[1:]]


def resume_command(last: Path, callbacks: Mapping[str, type]) -> str:
    """Return the command that resumes from a checkpoint; it names the config if that is not ``trusted``."""
    try:
        with_run_config(["fit", f"--ckpt_path={last}"], callbacks)
    except UserError:
        return f"vqlab fit --config {last.parents[1] / CONFIG} --ckpt_path {last}"
    return f"vqlab fit --ckpt_path {last}"


def from_start(value: Any, start: Path, name: str = "") -> Any:
    """Return a setting with paths that are relative to the folder ``start`` of the run made relative to this one."""
    if isinstance(value, dict):
        return {key: from_start(item, start, str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [from_start(item, start, name) for item in value]
    is_file = name in FILES or (name.endswith("path") and name != "class_path")
    if not is_file or not isinstance(value, str) or os.path.isabs(value) or "://" in value:
        return value
    return os.path.relpath(start / value) if os.path.exists(start / value) else value
