"""TensorBoard's files."""

import sys
from pathlib import Path

import pytest

from tests.helpers.logs_read_back import read_tensorboard
from vqlab.errors import UserError
from vqlab.training.loggers.tensorboard import tensorboard_logger


def log(first, last, value, begin=0):
    logger = tensorboard_logger("run", begin)
    assert begin or not Path("run").exists(), "it writes before there is something to write"
    for step in range(first, last):
        logger.log_metrics({"val/loss": value}, step)
    logger.finalize("success")


def test_a_resumed_run_replaces_what_was_logged_behind_its_checkpoint():
    log(0, 9, 1.0)
    log(5, 12, 2.0, begin=5)
    scalars = read_tensorboard("run/tensorboard").Scalars("val/loss")
    assert [scalar.step for scalar in scalars] == list(range(12))
    assert [scalar.value for scalar in scalars] == 5 * [1.0] + 7 * [2.0]


def test_where_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"pip install 'vqlab\[tensorboard\]'"):
        tensorboard_logger("run")
