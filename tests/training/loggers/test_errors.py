"""A logger that fails ends no training."""

import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from tests.e2e.tiny import FIT, fails, fit, logged
from vqlab.training.loggers.errors import METHODS, has_failed, silenced
from vqlab.training.loggers.media import log_image


class Fragile(Logger):
    """Fails in the method that is named, and counts the calls of all."""

    name = version = "fragile"
    broken = ""

    def __init__(self):
        self.calls = []

    def log_metrics(self, metrics, step=None):
        self._note("log_metrics")

    def log_hyperparams(self, params, *args, **kwargs):
        self._note("log_hyperparams")

    def save(self):
        self._note("save")

    def finalize(self, status):
        self._note("finalize")

    def _note(self, method):
        self.calls.append(method)
        if method == self.broken:
            raise OSError(2, "its folder is gone")


@pytest.mark.parametrize("method", ["log_metrics", "log_hyperparams", "finalize"])
def test_the_run_goes_on_without_it(monkeypatch, method):
    monkeypatch.setattr(Fragile, "broken", method)
    loggers = []
    monkeypatch.setattr(Fragile, "__init__", lambda self: (setattr(self, "calls", []), loggers.append(self))[0])
    with pytest.warns(UserWarning, match=r"Fragile failed .*its folder is gone.*goes on without it"):
        fit("--name=run", "--trainer.max_steps=10", f"--trainer.logger={__name__}.Fragile")
    assert [row["step"] for row in logged("runs/vqvae/run/metrics.csv")] == [4, 9]
    assert loggers[-1].calls.count(method) == 1
    assert loggers[-1].calls[-1] == method, "it is silent from then on"


def test_all_methods_of_a_logger_that_failed_are_silent():
    logger = silenced(Fragile())
    logger.broken = "log_metrics"
    with pytest.warns(UserWarning, match="Fragile failed"):
        logger.log_metrics({})
    for name in METHODS:
        if hasattr(logger, name):
            getattr(logger, name)({})
    assert has_failed(logger)
    assert logger.calls == ["log_metrics"]


def test_a_picture_for_a_logger_whose_folder_is_gone(monkeypatch):
    pytest.importorskip("tensorboard")
    logger = silenced(TensorBoardLogger("logs"))
    monkeypatch.setattr(logger.experiment, "add_image", lambda *args: Path("gone/x").read_text())
    with pytest.warns(UserWarning, match="TensorBoardLogger failed"):
        log_image([logger], "picture", torch.zeros(3, 4, 4), 0)
    log_image([logger], "picture", torch.zeros(3, 4, 4), 1)
    shutil.rmtree("logs")


def test_metrics_csv_is_no_such_logger(capsys, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vqlab.training.loggers.csv._lines", full)
    complaint = fails(capsys, [*FIT, "--name=run", "--trainer.max_steps=10"])
    assert "no space left for runs/vqvae/run/metrics.csv" in complaint
