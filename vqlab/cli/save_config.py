"""What a run writes when it starts."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning
from lightning.pytorch.cli import SaveConfigCallback

from vqlab.cli.provenance import code_version
from vqlab.cli.run_folder import STARTED_IN
from vqlab.experiments.run_state import CONFIG, FINISHED
from vqlab.training.checkpoint_io import write_atomic
from vqlab.training.loggers.csv import CSVLog
from vqlab.training.loggers.errors import silenced
from vqlab.training.loggers.wandb import wandb_logger


class StartRun(SaveConfigCallback):
    """Write config.yaml, complete and ready to be run again, into each checkpoint as well, and start W&B."""

    origin: Mapping[str, Any] = MappingProxyType({})  # only rank 0, which writes the checkpoints, knows more
    resumed: tuple[int, Any] | None = None  # step of the checkpoint, and the line of the log that belongs to it

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Give all ranks the folder of the first one, and save."""
        if trainer.world_size > 1:
            root = trainer.strategy.broadcast(trainer.default_root_dir)
            trainer._default_root_dir = root  # type: ignore[attr-defined]
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Save on rank 0, when fitting."""
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
            trainer.loggers = [*trainer.loggers, silenced(wandb)]
            wandb.log_hyperparams({"config": config.as_dict()})

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Change the files of the folder, now that the checkpoint is restored and nothing is refused any more."""
        folder = Path(trainer.default_root_dir)
        if trainer.is_global_zero:
            with write_atomic(folder / CONFIG) as file:
                file.write(self.origin["config"].encode())
            (folder / FINISHED).unlink(missing_ok=True)
        for logger in trainer.loggers:
            if self.resumed and isinstance(logger, CSVLog):
                logger.resume_from(*self.resumed)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Let the checkpoint say by itself, wherever it is taken, which code and settings made it."""
        checkpoint.update(self.origin)
