"""A logger that fails ends no training: it warns once, and is silent from then on."""

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
    """Return ``logger``, whose methods raise nothing from now on, and do nothing once one of them has failed."""
    for name in METHODS:
        if method := getattr(logger, name, None):
            setattr(logger, name, _guarded(logger, method))
    return logger


@contextmanager
def logging_to(logger: Logger) -> Iterator[None]:
    """Warn of an error in the block, instead of raising it, and let ``logger`` be silent from then on."""
    try:
        yield
    except Exception as error:  # whatever type a logger's library has
        logger.failed = True  # type: ignore[attr-defined]
        reason = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
        rank_zero_warn(f"{type(logger).__name__} failed ({reason}): the run goes on without it")


def has_failed(logger: Logger) -> bool:
    """Whether ``logger`` is silent because it has failed."""
    return getattr(logger, "failed", False)


def _guarded(logger: Logger, method: Callable[..., Any]) -> Callable[..., None]:
    @wraps(method)
    def guarded(*args: Any, **kwargs: Any) -> None:
        if not has_failed(logger):
            with logging_to(logger):
                method(*args, **kwargs)

    return guarded
