"""Weights & Biases without questions, online if a key is configured and else offline; and TensorBoard."""

import netrc
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_info

from vqlab.errors import UserError

HOSTS = ("api.forge.coreweave.com", "api.wandb.ai")  # netrc entries of `wandb login`: since 0.31, and before


def tensorboard_logger(run_folder: str | Path, step: int = 0) -> TensorBoardLogger:
    """Return a logger that writes to ``tensorboard`` in ``run_folder``; later steps than ``step`` are discarded."""
    if find_spec("tensorboard") is None:
        raise UserError("TensorBoard is not installed: pip install 'vqlab[tensorboard]', or leave out --tensorboard")
    options: dict[str, Any] = {"name": "", "version": "tensorboard", "default_hp_metric": False}
    return TensorBoardLogger(run_folder, purge_step=step or None, **options)


def wandb_logger(run_folder: str | Path, project: str, mode: str, note: str = "") -> WandbLogger | None:
    """Return a logger that writes to ``run_folder``; None if ``mode`` is ``disabled``, or if it cannot start.

    ``auto`` takes ``WANDB_MODE``; without it, online if there is an API key, otherwise offline.
    """
    if mode not in ("auto", "online", "offline", "disabled"):
        raise UserError(f"wandb mode must be auto, online, offline or disabled, got {mode!r}: set --wandb.mode=auto")
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
    if mode == "disabled":
        return None
    instead = {"online": "logging offline", "offline": "the run goes on without it"}
    for attempt in ("online", "offline") if mode == "online" else ("offline",):
        try:
            return _start_wandb(Path(run_folder), project, attempt, note)
        except Exception as error:  # wandb raises several unrelated types
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            rank_zero_info(f"wandb could not go {attempt} ({reason}); {instead[attempt]}")
    return None


def _start_wandb(folder: Path, project: str, mode: Any, note: str) -> WandbLogger:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(silent=mode == "offline", init_timeout=30)
    # Absolute, because the process that writes the files has its own working directory.
    options: dict[str, Any] = {"name": folder.name, "notes": note or None, "mode": mode, "settings": settings}
    run = wandb.init(project=project, dir=folder.absolute(), **options)
    # As WandbLogger does for its own runs: the x-axis is the training step, not the number of log calls.
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=run)


def has_key() -> bool:
    """Whether an API key for W&B is configured."""
    own_server = urlsplit(os.environ.get("WANDB_BASE_URL", "")).netloc
    try:
        entries = netrc.netrc().hosts
    except (FileNotFoundError, netrc.NetrcParseError):
        entries = {}
    return bool(os.environ.get("WANDB_API_KEY")) or any(host in entries for host in (*HOSTS, own_server))
