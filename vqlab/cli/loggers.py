"""Which loggers a run has besides those that the user gives, and what is left for them when it has ended."""

from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.loggers import Logger, WandbLogger

from vqlab.callbacks.checkpoints import LastAndBest
from vqlab.experiments.checkpoint_header import checkpoint_step
from vqlab.training.loggers.boards import log_best_model, tensorboard_logger
from vqlab.training.loggers.csv import CSVLog


def choose_loggers(given: Any, folder: Path, command: str, options: Any) -> Any:
    """Return what the Trainer takes as ``logger``; W&B, which writes as soon as it exists, joins later."""
    if given is False:
        return False
    others: list[Logger] = [*given] if isinstance(given, list) else [] if given in (None, True) else [given]
    log = CSVLog(folder, "metrics.csv" if command == "fit" else f"{command}.csv")
    if command == "fit" and options["tensorboard"]:
        done = checkpoint_step(Path(options["ckpt_path"])) if options.get("ckpt_path") else 0
        others.append(tensorboard_logger(folder, max(0, done)))
    return [log, *others]


def log_best(trainer: lightning.Trainer) -> None:
    """Log the run's best.ckpt to W&B, if there is one and W&B takes part."""
    path = Path(trainer.default_root_dir) / "checkpoints" / "best.ckpt"
    best = next(callback for callback in trainer.callbacks if isinstance(callback, LastAndBest))  # type: ignore[attr-defined]
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and best.best_step is not None and path.exists():
            log_best_model(logger, path, step=best.best_step, monitor=best.monitor, score=best.best_score)
