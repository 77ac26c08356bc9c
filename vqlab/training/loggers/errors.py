"""A logger that fails does not end the training: it warns once and is disabled."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_warn

METHODS = (
    "log_metrics",
    "log_hyperparams",
    "log_graph",
    "log_image",
    "log_table",
    "after_save_checkpoint",
    "save",
    "finalize",
)


def silenced(logger: Logger) -> Logger:
    """Return ``logger``, whose methods do not raise any more, and do nothing once one of them has failed."""
    for name in METHODS:
        if method := getattr(logger, name, None):
            setattr(logger, name, _guarded(logger, method))
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


def _guarded(logger: Logger, method: Callable[..., Any]) -> Callable[..., None]:
    @wraps(method)
    def guarded(*args: Any, **kwargs: Any) -> None:
        if not has_failed(logger):
            with logging_to(logger):
                method(*args, **kwargs)

    return guarded
