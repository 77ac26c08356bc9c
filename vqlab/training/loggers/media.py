"""Images, tables and histograms for the loggers that show them: W&B and TensorBoard."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from torch import Tensor

from vqlab.training.loggers.errors import has_failed, logging_to

BINS = 64


def log_image(loggers: Iterable[Logger], name: str, image: Tensor, step: int) -> None:
    """Log an image (3, H, W) in [0, 1]."""
    _log(
        loggers,
        lambda wandb: wandb.log_image(name, [image], step=step),
        lambda board: board.add_image(name, image, step),
    )


def log_table(
    loggers: Iterable[Logger], name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int
) -> None:
    """Log a table; in TensorBoard, which has no tables, as text."""
    _log(
        loggers,
        lambda wandb: wandb.log_table(name, columns=list(columns), data=[list(row) for row in rows], step=step),
        lambda board: board.add_text(name, markdown(columns, rows), step),
    )


def log_histogram(loggers: Iterable[Logger], name: str, values: Tensor, step: int) -> None:
    """Log the distribution of ``values`` (N,)."""

    def to_wandb(logger: Any) -> None:
        import wandb

        logger.log_metrics({name: wandb.Histogram(values.cpu().tolist(), num_bins=BINS)}, step)

    _log(loggers, to_wandb, lambda board: board.add_histogram(name, values.cpu(), step, bins=BINS))


def _log(loggers: Iterable[Logger], to_wandb: Callable[[Any], None], to_tensorboard: Callable[[Any], None]) -> None:
    """Call one of the functions for each logger that has not failed; other loggers have no media."""
    for logger in loggers:
        if not has_failed(logger):
            with logging_to(logger):
                if isinstance(logger, WandbLogger):
                    to_wandb(logger)
                elif isinstance(logger, TensorBoardLogger):
                    to_tensorboard(logger.experiment)


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
