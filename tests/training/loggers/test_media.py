"""Images, tables and histograms in TensorBoard and W&B, read from their files; failing loggers."""

import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import Logger

from tests.e2e.tiny import FIT, fails, fit, logged
from tests.helpers.logs_read_back import read_tensorboard, read_wandb
from vqlab.training.loggers.boards import tensorboard_logger, wandb_logger
from vqlab.training.loggers.csv import CSVLog
from vqlab.training.loggers.media import guarded, log_histogram, log_image, log_table


def test_images_tables_and_histograms_are_logged(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    wandb = wandb_logger("run", "vqlab", "offline")
    loggers = [CSVLog("run"), tensorboard_logger("run"), wandb]
    log_image(loggers, "samples/step", torch.rand(3, 20, 30), 4)
    log_table(loggers, "samples/words", ("topic", "words"), [(0, "a b"), (1, "c d")], 4)
    log_histogram(loggers, "samples/uses", torch.tensor([0, 0, 0, 7]), 4)
    loggers[1].finalize("success")
    wandb.experiment.finish()

    for _ in range(100):  # W&B writes in another process
        if len(read_wandb(Path("run")).history) == 3:
            break
        time.sleep(0.2)
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


def test_full_disk_ends_the_run(capsys, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vqlab.training.loggers.csv._lines", full)
    message = fails(capsys, [*FIT, "--name=run", "--trainer.max_steps=10"])
    assert "no space left for runs/vqvae/run/metrics.csv" in message


class Fragile(Logger):
    """Fails in one method, and counts its calls."""

    name = version = "fragile"
    broken = ""
    calls = 0

    def log_metrics(self, metrics, step=None):
        self.fail_if_broken("log_metrics")

    def log_hyperparams(self, *args):
        self.fail_if_broken("log_hyperparams")

    def fail_if_broken(self, method):
        if method == Fragile.broken:
            Fragile.calls += 1
            raise OSError(2, "its folder is gone")


@pytest.mark.parametrize("method", ["log_metrics", "log_hyperparams"])
def test_failing_logger_is_disabled_and_run_continues(monkeypatch, method):
    monkeypatch.setattr(Fragile, "broken", method)
    monkeypatch.setattr(Fragile, "calls", 0)
    with pytest.warns(UserWarning, match="Fragile failed .*its folder is gone.*goes on without it"):
        fit("--name=run", "--trainer.max_steps=10", f"--trainer.logger={__name__}.Fragile")
    assert [row["step"] for row in logged("runs/vqvae/run/metrics.csv")] == [4, 9]
    assert Fragile.calls == 1


def test_failing_tensorboard_is_disabled(monkeypatch):
    logger = guarded(tensorboard_logger("run"))
    monkeypatch.setattr(logger.experiment, "add_image", lambda *args: Path("gone/x").read_text())
    with pytest.warns(UserWarning, match="TensorBoardLogger failed"):
        log_image([logger], "picture", torch.zeros(3, 4, 4), 0)
    log_image([logger], "picture", torch.zeros(3, 4, 4), 1)
