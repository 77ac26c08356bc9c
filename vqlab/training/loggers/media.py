"""Images, tables and histograms for W&B and TensorBoard; a logger that fails does not end the training."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

BINS = 64
METHODS = ("log_metrics", "log_hyperparams", "log_graph", "after_save_checkpoint", "save", "finalize")


def silenced(logger: Logger) -> Logger:
    """Return ``logger``, whose methods do not raise any more, and do nothing once one of them has failed."""

    def guarded(method: Callable[..., Any]) -> Callable[..., None]:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> None:
            if not has_failed(logger):
                with logging_to(logger):
                    method(*args, **kwargs)

        return call

    for name in METHODS:
        setattr(logger, name, guarded(getattr(logger, name)))
    return logger


@contextmanager
def logging_to(logger: Logger) -> Iterator[None]:
    """Turn an error in the block into a warning, and disable ``logger``."""
    try:
        yield
    except Exception as error:  # each logging library has types of its own
        logger.failed = True  # type: ignore[attr-defined]
        reason = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
        rank_zero_warn(f"{type(logger).__name__} failed ({reason}): the run goes on without it")


def has_failed(logger: Logger) -> bool:
    """Whether ``logger`` is disabled."""
    return getattr(logger, "failed", False)


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
    """Log a table; in TensorBoard, which has no tables, as text in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    markdown = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
    _log(
        loggers,
        lambda wandb: wandb.log_table(name, columns=list(columns), data=[list(row) for row in rows], step=step),
        lambda board: board.add_text(name, markdown, step),
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
