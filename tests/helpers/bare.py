"""A Trainer without logger, checkpoints and progress bar."""

from typing import Any

import lightning

BARE: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


def trainer(*callbacks, **settings):
    """Return a Trainer for ten batches that logs each of them."""
    usual = {"max_steps": 10, "max_epochs": -1, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    return lightning.Trainer(**{**BARE, **usual, **settings}, callbacks=list(callbacks))


def validate(model, data):
    """Return the metrics of a validation."""
    (metrics,) = trainer().validate(model, data, verbose=False)
    return metrics
