"""What a run writes when it starts: its configuration, and which code runs it."""

import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning
import torch
from lightning.pytorch.cli import SaveConfigCallback

from vqlab import __version__
from vqlab.atomic_io import write_atomic
from vqlab.cli.run_folder import STARTED_IN
from vqlab.experiments.run_state import CONFIG, FINISHED
from vqlab.training.loggers.boards import wandb_logger
from vqlab.training.loggers.csv import CSVLog

PACKAGE = Path(__file__).parents[1]


class StartRun(SaveConfigCallback):
    """Write config.yaml, complete and ready to be run again, into each checkpoint as well, and start W&B."""

    origin: Mapping[str, Any] = MappingProxyType({})  # entries of each checkpoint; only rank 0, which writes it, knows
    resumed: tuple[int, Any] | None = None  # step of the checkpoint, and the line of the log that belongs to it
    begun = False  # whether a batch was trained on: what goes wrong from then on is a run that failed

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Give all ranks the folder of the first one, and save."""
        if trainer.world_size > 1:
            root = trainer.strategy.broadcast(trainer.default_root_dir)
            trainer._default_root_dir = root  # type: ignore[attr-defined]
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Prepare the text of config.yaml on rank 0, when fitting, and start W&B."""
        if trainer.state.fn != "fit":
            return
        config = self.config.clone()
        for name in ("name", "ckpt_path"):  # a second run of the file is a run of its own
            config[name] = None
        config["overwrite"] = False
        text = self.parser.dump(config, skip_unset=False, skip_link_targets=True)
        started_in = os.path.relpath(os.path.realpath("."), os.path.realpath(trainer.default_root_dir))
        self.origin = {"made_by": code_version(), "config": text, STARTED_IN: started_in}
        # W&B joins only now, when data and model are known to be good: it writes files as soon as it exists.
        wandb = wandb_logger(trainer.default_root_dir, config["wandb"]["project"], config["wandb"]["mode"])
        if wandb:
            trainer.loggers = [*trainer.loggers, wandb]
            wandb.log_hyperparams({"config": config.as_dict()})

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Cut the log of a run that goes on from an earlier step."""
        for logger in trainer.loggers:
            if self.resumed and isinstance(logger, CSVLog):
                logger.resume_from(*self.resumed)

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        """Write config.yaml at the first batch: checkpoint and data are read, and nothing is refused any more."""
        if self.begun:
            return
        self.begun = True
        folder = Path(trainer.default_root_dir)
        if trainer.is_global_zero:
            with write_atomic(folder / CONFIG) as file:
                file.write(self.origin["config"].encode())
            (folder / FINISHED).unlink(missing_ok=True)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Write into the checkpoint which code and settings made it."""
        checkpoint.update(self.origin)


def code_version() -> dict[str, str]:
    """Return the versions of vqlab, Python, torch and Lightning, and vqlab's git revision where there is one."""
    found = {"vqlab": __version__, "revision": git_revision(), "python": platform.python_version()}
    found |= {"torch": str(torch.__version__), "lightning": str(lightning.__version__)}  # torch's is no plain str
    return {name: text for name, text in found.items() if text}


def git_revision(folder: Path = PACKAGE) -> str:
    """Return the commit that vqlab's files are of, with ``-dirty`` where they differ from it; empty without git."""
    git = ["git", "-C", str(folder)]
    try:
        # A vqlab that is installed inside somebody's repository is not of that repository's commit.
        subprocess.run([*git, "ls-files", "--error-unmatch", "."], check=True, capture_output=True, timeout=10)
        described = [*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(described, check=True, capture_output=True, timeout=10, text=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
