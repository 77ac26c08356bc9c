"""What a run writes besides checkpoints: its configuration, the version of the code, and logs."""

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning
import torch
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import Logger, WandbLogger

from vqlab import __version__
from vqlab.atomic_io import write_atomic
from vqlab.callbacks import LastAndBest
from vqlab.cli.run_folder import STARTED_IN
from vqlab.experiments.checkpoint_header import checkpoint_step
from vqlab.experiments.run_state import CONFIG, FINISHED, check_note, write_note
from vqlab.training.loggers.boards import tensorboard_logger, wandb_logger
from vqlab.training.loggers.csv import CSVLog
from vqlab.training.loggers.media import attempt, guarded

PACKAGE = Path(__file__).parents[1]


class StartRun(SaveConfigCallback):
    """Write the complete config.yaml into the run folder and each checkpoint, and start W&B."""

    origin: Mapping[str, Any] = MappingProxyType({})  # entries of each checkpoint, on rank 0
    resumed: tuple[int, Any] | None = None  # step of the resumed checkpoint, and the line of the log at that step
    note = ""
    started = False  # whether the first batch has started

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Give all ranks the run folder of rank 0, and save."""
        if trainer.world_size > 1:
            root = trainer.strategy.broadcast(trainer.default_root_dir)
            trainer._default_root_dir = root  # type: ignore[attr-defined]
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Prepare the text of config.yaml on rank 0, when fitting, and start W&B."""
        if trainer.state.fn != "fit":
            return
        config = self.config.clone()
        self.note = check_note(config["note"] or "")
        # A repetition is a new run.
        config["name"], config["note"], config["ckpt_path"], config["overwrite"] = None, None, None, False
        text = self.parser.dump(config, skip_unset=False, skip_link_targets=True)
        started_in = os.path.relpath(os.path.realpath("."), os.path.realpath(trainer.default_root_dir))
        self.origin = {"made_by": code_version(), "config": text, STARTED_IN: started_in}
        # W&B writes files as soon as it exists, so it starts only when data and model are known to be valid.
        wandb = wandb_logger(trainer.default_root_dir, config["wandb"]["project"], config["wandb"]["mode"], self.note)
        if wandb:
            trainer.loggers = [*trainer.loggers, guarded(wandb)]
            wandb.log_hyperparams({"config": config.as_dict()})

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Remove the lines of the log after the step from which the run is resumed."""
        for logger in trainer.loggers:
            if self.resumed and isinstance(logger, CSVLog):
                logger.resume_from(*self.resumed)

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        """Write config.yaml at the first batch, when checkpoint and data have been read."""
        if not self.started and trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            with write_atomic(folder / CONFIG) as file:
                file.write(self.origin["config"].encode())
            (folder / FINISHED).unlink(missing_ok=True)
            if self.note:
                write_note(folder, self.note)
        self.started = True

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the version of the code and the configuration to the checkpoint."""
        checkpoint.update(self.origin)


def choose_loggers(given: Any, folder: Path, command: str, options: Any) -> Any:
    """Return the Trainer's loggers: metrics.csv, TensorBoard if chosen, and the user's; StartRun adds W&B."""
    if given is False:
        return False
    others: list[Logger] = [*given] if isinstance(given, list) else [] if given in (None, True) else [given]
    log = CSVLog(folder, "metrics.csv" if command == "fit" else f"{command}.csv")
    if command == "fit" and options["tensorboard"]:
        step = checkpoint_step(Path(options["ckpt_path"])) if options.get("ckpt_path") else 0
        others.append(tensorboard_logger(folder, max(0, step)))
    return [log, *map(guarded, others)]


def log_best(trainer: lightning.Trainer) -> None:
    """Log best.ckpt to W&B, if there are both, as ``model-<run id>:best``, the name that ``WandbLogger`` gives it."""
    path = Path(trainer.default_root_dir) / "checkpoints" / "best.ckpt"
    best = next(callback for callback in trainer.callbacks if isinstance(callback, LastAndBest))  # type: ignore[attr-defined]
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and best.best_step is not None and path.exists():
            facts = {"step": best.best_step, "monitor": best.monitor, "score": best.best_score}
            attempt(logger, _log_model, logger, path, facts)


def _log_model(logger: WandbLogger, checkpoint: Path, facts: dict[str, Any]) -> None:
    import wandb

    artifact = wandb.Artifact(f"model-{logger.experiment.id}", type="model", metadata=facts)
    artifact.add_file(str(checkpoint), name="model.ckpt")
    logger.experiment.log_artifact(artifact, aliases=["latest", "best"])


def code_version() -> dict[str, str]:
    """Return the machine, and versions: of vqlab with its git revision where there is one, Python, torch, Lightning."""
    found = {"vqlab": __version__, "revision": git_revision(), "python": platform.python_version()}
    found |= {"torch": str(torch.__version__), "lightning": lightning.__version__}  # torch's is a subclass of str
    found["machine"] = machine()
    return {name: text for name, text in found.items() if text}


def machine() -> str:
    """Return the kind of the GPU, or number and kind of the cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    with suppress(OSError):
        kinds = re.findall("^model name\\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        return f"{len(kinds)} cores, {kinds[0]}" if kinds else platform.machine()
    return platform.machine()


def git_revision(folder: Path = PACKAGE) -> str:
    """Return the git commit of vqlab's files, with ``-dirty`` if they differ from it; empty without git."""
    git = ["git", "-C", str(folder)]
    try:
        # Fails for a vqlab that is installed inside another repository.
        subprocess.run([*git, "ls-files", "--error-unmatch", "."], check=True, capture_output=True, timeout=10)
        described = [*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(described, check=True, capture_output=True, timeout=10, text=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
