"""Pictures, tables and histograms, to each logger that can show them: W&B and TensorBoard."""

from collections.abc import Iterable, Sequence
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from torch import Tensor

from vqlab.training.loggers.errors import has_failed, logging_to

BINS = 64


def log_image(loggers: Iterable[Logger], name: str, image: Tensor, step: int) -> None:
    """Log an image (3, H, W) in [0, 1]."""
    for logger in working(loggers):
        with logging_to(logger):
            if isinstance(logger, WandbLogger):
                logger.log_image(name, [image], step=step)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(name, image, step)


def log_table(
    loggers: Iterable[Logger], name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int
) -> None:
    """Log a table; TensorBoard has none, and shows it as a text."""
    for logger in working(loggers):
        with logging_to(logger):
            if isinstance(logger, WandbLogger):
                logger.log_table(name, columns=list(columns), data=[list(row) for row in rows], step=step)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text(name, markdown(columns, rows), step)


def log_histogram(loggers: Iterable[Logger], name: str, values: Tensor, step: int) -> None:
    """Log how ``values`` (N,) are spread."""
    for logger in working(loggers):
        with logging_to(logger):
            if isinstance(logger, WandbLogger):
                import wandb

                logger.log_metrics({name: wandb.Histogram(values.cpu().tolist(), num_bins=BINS)}, step)  # type: ignore[dict-item]
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_histogram(name, values.cpu(), step, bins=BINS)


def working(loggers: Iterable[Logger]) -> list[Logger]:
    """Return those that have not failed."""
    return [logger for logger in loggers if not has_failed(logger)]


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table in Markdown.

    Example:
        >>> print(markdown(["class", "count"], [[3, 12]]))
        | class | count |
        | --- | --- |
        | 3 | 12 |
    """
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
