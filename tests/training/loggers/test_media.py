"""What TensorBoard and W&B hold, read back from their files."""

import sys
from pathlib import Path

import torch

from tests.helpers.logs_read_back import read_tensorboard, read_wandb
from tests.helpers.refusal import refused
from vqlab.training.loggers.csv import CSVLog
from vqlab.training.loggers.media import log_histogram, log_image, log_table
from vqlab.training.loggers.tensorboard import tensorboard_logger
from vqlab.training.loggers.wandb import wandb_logger


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
    assert histogram["samples/uses/_type"] == "histogram"
    assert (sum(histogram["samples/uses/values"]), histogram["samples/uses/bins"][-1]) == (4, 7)

    board = read_tensorboard(Path("run/tensorboard"))
    (shown,) = board.Images("samples/step")
    assert (shown.step, shown.width, shown.height) == (4, 30, 20)
    (counted,) = board.Histograms("samples/uses")
    assert (counted.histogram_value.num, counted.histogram_value.max) == (4, 7)
    (text,) = board.Tensors("samples/words/text_summary")
    assert text.tensor_proto.string_val[0].decode().splitlines()[2:] == ["| 0 | a b |", "| 1 | c d |"]
    assert not Path("run/metrics.csv").exists()


def test_tensorboard_of_a_resumed_run_replaces_what_was_logged_after_its_checkpoint():
    for first, last, value in ((0, 9, 1.0), (5, 12, 2.0)):
        logger = tensorboard_logger("run", first)
        assert first or not Path("run").exists(), "it writes before there is something to write"
        for step in range(first, last):
            logger.log_metrics({"val/loss": value}, step)
        logger.finalize("success")
    scalars = read_tensorboard("run/tensorboard").Scalars("val/loss")
    assert [scalar.step for scalar in scalars] == list(range(12))
    assert [scalar.value for scalar in scalars] == 5 * [1.0] + 7 * [2.0]


def test_tensorboard_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with refused("pip install 'vqlab[tensorboard]'"):
        tensorboard_logger("run")
