"""Images, tables and histograms for W&B and TensorBoard; a logger that fails does not end the run."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

BINS = 64
METHODS = ["log_metrics", "log_hyperparams", "log_graph", "log_image", "log_table"]
METHODS += ["after_save_checkpoint", "save", "finalize"]


def guarded(logger: Logger) -> Logger:
    """Return ``logger`` with methods that do not raise: see :func:`attempt`."""
    for name in METHODS:
        if method := getattr(logger, name, None):
            setattr(logger, name, partial(attempt, logger, method))
    return logger


def attempt(logger: Logger, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Call a method of ``logger``; if it raises, warn once and disable the logger, so that the run continues."""
    if getattr(logger, "failed", False):
        return
    try:
        call(*args, **kwargs)
    except Exception as error:  # each logging library has its own types
        logger.failed = True  # type: ignore[attr-defined]
        reason = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
        rank_zero_warn(f"{type(logger).__name__} failed ({reason}): the run goes on without it")


def log_image(loggers: Iterable[Logger], name: str, image: Tensor, step: int) -> None:
    """Log an image (3, H, W) in [0, 1]."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [image], step=step)
    _to_boards(loggers, "image", name, image, step)


def log_table(
    loggers: Iterable[Logger], name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int
) -> None:
    """Log a table; in TensorBoard, which has no tables, as text in Markdown."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_table(name, columns=list(columns), data=[list(row) for row in rows], step=step)
    lines = [columns, ["---"] * len(columns), *rows]
    _to_boards(loggers, "text", name, "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines), step)


def log_histogram(loggers: Iterable[Logger], name: str, values: Tensor, step: int) -> None:
    """Log the distribution of ``values`` (N,)."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            histogram: Any = wandb.Histogram(values.cpu().tolist(), num_bins=BINS)
            logger.log_metrics({name: histogram}, step)
    _to_boards(loggers, "histogram", name, values.cpu(), step, bins=BINS)


def _to_boards(loggers: Iterable[Logger], kind: str, *args: Any, **kwargs: Any) -> None:
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            attempt(logger, lambda board: getattr(board.experiment, f"add_{kind}")(*args, **kwargs), logger)
