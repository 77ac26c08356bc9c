"""Images, tables and histograms for the loggers that show them: W&B and TensorBoard."""

from collections.abc import Iterable, Sequence
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from torch import Tensor

BINS = 64


def log_image(loggers: Iterable[Logger], name: str, image: Tensor, step: int) -> None:
    """Log an image (3, H, W) in [0, 1]."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [image], step=step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, image, step)


def log_table(
    loggers: Iterable[Logger], name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int
) -> None:
    """Log a table; in TensorBoard, which has no tables, as text in Markdown."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_table(name, columns=list(columns), data=[list(row) for row in rows], step=step)
        elif isinstance(logger, TensorBoardLogger):
            lines = [columns, ["---"] * len(columns), *rows]
            text = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
            logger.experiment.add_text(name, text, step)


def log_histogram(loggers: Iterable[Logger], name: str, values: Tensor, step: int) -> None:
    """Log the distribution of ``values`` (N,)."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            histogram: Any = wandb.Histogram(values.cpu().tolist(), num_bins=BINS)
            logger.log_metrics({name: histogram}, step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_histogram(name, values.cpu(), step, bins=BINS)
