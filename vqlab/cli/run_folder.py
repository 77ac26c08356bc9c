"""The folder of a run: where a new one goes, and what a checkpoint's own one holds."""

import itertools
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_only

from vqlab.cli.trust import Untrusted, trusted
from vqlab.errors import UserError
from vqlab.experiments.checkpoint_header import read_header, require_file
from vqlab.experiments.row_lock import row_lock
from vqlab.experiments.run_state import CONFIG, LAST, begin_again, holds_run
from vqlab.experiments.settings import parse_yaml

STARTED_IN = "started_in"  # entry of a checkpoint: the folder where its run was started, relative to the run's folder
LONGEST = 255  # bytes that file systems take for a name
# Arguments of models and data that name files, besides those that end in ``path``.
FILES = ("tokenizer", "backbone", "source", "target", "charset", "stop_words")


@contextmanager
def held_run_folder(config: Namespace, command: str) -> Iterator[Path]:
    """Yield the folder of this run: that of the checkpoint which is resumed or evaluated, or a new one.

    Its lock is held in the block by the first process of all, unless a checkpoint is evaluated in its own folder, which
    may be that of a run in progress. The other processes have no say: they write nothing, and get the folder's name
    from the first when they meet (:class:`~vqlab.cli.save_config.StartRun`).

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
        return begin_again(folder)
    has_last = (folder / LAST).exists()
    what = "a run" if has_last else "a run that has no last.ckpt"
    resume = f", resume with --ckpt_path {folder / LAST}" if has_last else ""
    raise UserError(f"{folder} holds {what}: choose another --name{resume}, or begin it anew with --overwrite")


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
    outline = read_header(path)
    text = outline.get("config") or (read_config(folder) if folder else None)
    if text is None:
        return args, []
    trust = f"pass {f'--config {folder / CONFIG}' if folder else 'a --config of your own'} to trust it"
    if not isinstance(text, str):
        raise UserError(f"this run's config is no text: {trust}")
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
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, default_flow_style=True, width=10**9)
    return [command, f"--config={text}", *rest], lost


def resume_command(last: Path, callbacks: Mapping[str, type]) -> str:
    """Return the command that resumes from a checkpoint; its config is named where it needs the user's trust."""
    try:
        with_run_config(["fit", f"--ckpt_path={last}"], callbacks)
    except UserError:
        return f"vqlab fit --config {last.parents[1] / CONFIG} --ckpt_path {last}"
    return f"vqlab fit --ckpt_path {last}"


def from_start(value: Any, start: Path) -> tuple[Any, list[str]]:
    """Let relative paths of a run's configuration, which start where it was started, be found from here, too.

    Args:
        value: A configuration of model and data.
        start: The folder that its run was started in.

    Returns:
        The configuration, and the texts that name a file neither here nor there.

    Example:
        >>> from_start({"data": {"init_args": {"path": "nowhere.npz", "array": "x"}}}, Path("started"))
        ({'data': {'init_args': {'path': 'nowhere.npz', 'array': 'x'}}}, ['nowhere.npz'])
    """
    if not isinstance(value, dict):
        return value, []
    found, lost = {}, []
    for name, given in value.items():
        if isinstance(given, dict) or not (name in FILES or str(name).endswith("path")) or name == "class_path":
            found[name], more = from_start(given, start)
            lost += more
            continue
        paths = given if isinstance(given, list) else [given]
        here = [os.path.relpath(start / p) if is_relative(p) and os.path.exists(start / p) else p for p in paths]
        lost += [path for path in here if is_relative(path) and not os.path.exists(path)]
        found[name] = here if isinstance(given, list) else here[0]
    return found, lost


def is_relative(path: Any) -> bool:
    """Whether a value is a text that may be a relative path."""
    return isinstance(path, str) and not os.path.isabs(path) and "://" not in path


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
        return (folder / CONFIG).read_text("utf-8")
    except OSError as error:
        raise UserError(f"{folder / CONFIG} cannot be read ({error.strerror}): pass --config") from error
