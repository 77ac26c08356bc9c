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

HOSTS = ("api.forge.coreweave.com", "api.wandb.ai")  # where `wandb login` of 0.31, and of earlier versions, puts a key


def tensorboard_logger(run_folder: str | Path, step: int = 0) -> TensorBoardLogger:
    """Return a logger that writes to ``tensorboard`` in ``run_folder``; an earlier run is shown up to ``step``."""
    if find_spec("tensorboard") is None:
        raise UserError("TensorBoard is not installed: pip install 'vqlab[tensorboard]', or leave out --tensorboard")
    # Lightning's default logs hp_metric=-1 beside the hyperparameters.
    return TensorBoardLogger(
        run_folder, name="", version="tensorboard", default_hp_metric=False, purge_step=step or None
    )


def wandb_logger(run_folder: str | Path, project: str, mode: str, note: str = "") -> WandbLogger | None:
    """Return a logger that writes to ``run_folder``; None if ``mode`` is ``disabled``, or it cannot start.

    The mode ``auto`` is that of ``WANDB_MODE``, else online with a key and offline without.
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
        except Exception as error:  # wandb raises several unrelated types; the run must go on in any case
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            rank_zero_info(f"wandb could not go {attempt} ({reason}); {instead[attempt]}")
    return None


def _start_wandb(folder: Path, project: str, mode: Any, note: str) -> WandbLogger:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(silent=mode == "offline", init_timeout=30)
    # Absolute: the process that writes the files stays in the folder in which the first run started.
    run = wandb.init(
        project=project, name=folder.name, notes=note or None, dir=folder.absolute(), mode=mode, settings=settings
    )
    # As WandbLogger does for runs that it starts itself: training steps on the x-axis, not calls of log.
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=run)


def has_key() -> bool:
    """Whether a key for W&B is configured."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    own = urlsplit(os.environ.get("WANDB_BASE_URL", "")).netloc  # a server of one's own
    try:
        entries = netrc.netrc()
        return any(entries.authenticators(host) for host in (*HOSTS, own) if host)
    except (FileNotFoundError, netrc.NetrcParseError):
        return False
