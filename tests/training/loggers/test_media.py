"""What TensorBoard and W&B hold, read back from their files; a logger that fails ends no training."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from tests.e2e.tiny import FIT, fails, fit, logged
from tests.helpers.logs_read_back import read_tensorboard, read_wandb
from vqlab.training.loggers.boards import tensorboard_logger, wandb_logger
from vqlab.training.loggers.csv import CSVLog
from vqlab.training.loggers.media import METHODS, has_failed, log_histogram, log_image, log_table, silenced


def test_images_tables_and_histograms(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    wandb = wandb_logger("run", "vqlab", "offline")
    loggers = [CSVLog("run"), tensorboard_logger("run"), wandb]
    log_image(loggers, "samples/step", torch.rand(3, 20, 30), 4)
    log_table(loggers, "samples/words", ("topic", "words"), [(0, "a b"), (1, "c d")], 4)
    log_histogram(loggers, "samples/uses", torch.tensor([0, 0, 0, 7]), 4)
    loggers[1].finalize("success")
    wandb.experiment.finish()

    image, table, histogram = read_wandb(Path("run")).history
    assert {row["trainer/global_step"] for row in (image, table, histogram)} == {4}
    assert (image["samples/step/width"], image["samples/step/height"]) == (30, 20)
    assert (table["samples/words/_type"], table["samples/words/nrows"]) == ("table-file", 2)
    assert (sum(histogram["samples/uses/values"]), histogram["samples/uses/bins"][-1]) == (4, 7)

    board = read_tensorboard(Path("run/tensorboard"))
    (shown,) = board.Images("samples/step")
    assert (shown.step, shown.width, shown.height) == (4, 30, 20)
    (counted,) = board.Histograms("samples/uses")
    assert (counted.histogram_value.num, counted.histogram_value.max) == (4, 7)
    (text,) = board.Tensors("samples/words/text_summary")
    assert text.tensor_proto.string_val[0].decode().splitlines()[2:] == ["| 0 | a b |", "| 1 | c d |"]
    assert not Path("run/metrics.csv").exists()


class Fragile(Logger):
    """Fails in its first line of the log, and counts the calls."""

    name = version = "fragile"
    calls = 0

    def log_metrics(self, metrics, step=None):
        Fragile.calls += 1
        raise OSError(2, "its folder is gone")

    def log_hyperparams(self, params, *args, **kwargs):
        pass


def test_the_run_goes_on_without_a_logger_that_fails():
    with pytest.warns(UserWarning, match=r"Fragile failed .*its folder is gone.*goes on without it"):
        fit("--name=run", "--trainer.max_steps=10", f"--trainer.logger={__name__}.Fragile")
    assert [row["step"] for row in logged("runs/vqvae/run/metrics.csv")] == [4, 9]
    assert Fragile.calls == 1


def test_all_methods_of_a_logger_that_failed_are_silent(monkeypatch):
    logger = silenced(TensorBoardLogger("logs"))
    monkeypatch.setattr(logger.experiment, "add_image", lambda *args: Path("gone/x").read_text())
    with pytest.warns(UserWarning, match="TensorBoardLogger failed"):
        log_image([logger], "picture", torch.zeros(3, 4, 4), 0)
    log_image([logger], "picture", torch.zeros(3, 4, 4), 1)
    assert has_failed(logger)
    for name in METHODS:
        getattr(logger, name)(None)


def test_metrics_csv_is_no_such_logger(capsys, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vqlab.training.loggers.csv._lines", full)
    complaint = fails(capsys, [*FIT, "--name=run", "--trainer.max_steps=10"])
    assert "no space left for runs/vqvae/run/metrics.csv" in complaint
