"""Pictures, tables and histograms, read back from what the loggers wrote."""

from pathlib import Path

import pytest
import torch

from tests.helpers.logs_read_back import read_tensorboard, read_wandb
from vqlab.training.loggers.csv import CSVLog
from vqlab.training.loggers.media import log_histogram, log_image, log_table
from vqlab.training.loggers.tensorboard import tensorboard_logger
from vqlab.training.loggers.wandb import wandb_logger


@pytest.fixture
def written(monkeypatch, tmp_path):
    """Log one of each to all loggers at once."""
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    wandb = wandb_logger("run", "vqlab", "offline")
    loggers = [CSVLog("run"), tensorboard_logger("run"), wandb]
    log_image(loggers, "samples/step", torch.rand(3, 20, 30), 4)
    log_table(loggers, "samples/words", ("topic", "words"), [(0, "a b"), (1, "c d")], 4)
    log_histogram(loggers, "samples/uses", torch.tensor([0, 0, 0, 7]), 4)
    loggers[1].finalize("success")
    wandb.experiment.finish()
    return Path("run")


def test_wandb_and_tensorboard_hold_the_same(written):
    image, table, histogram = read_wandb(written).history
    assert {row["trainer/global_step"] for row in (image, table, histogram)} == {4}
    assert (image["samples/step/width"], image["samples/step/height"]) == (30, 20)
    assert (table["samples/words/_type"], table["samples/words/nrows"]) == ("table-file", 2)
    assert histogram["samples/uses/_type"] == "histogram"
    assert (sum(histogram["samples/uses/values"]), histogram["samples/uses/bins"][-1]) == (4, 7)

    board = read_tensorboard(written / "tensorboard")
    (shown,) = board.Images("samples/step")
    assert (shown.step, shown.width, shown.height) == (4, 30, 20)
    (counted,) = board.Histograms("samples/uses")
    assert (counted.histogram_value.num, counted.histogram_value.max) == (4, 7)
    (text,) = board.Tensors("samples/words/text_summary")
    assert text.tensor_proto.string_val[0].decode().splitlines()[2:] == ["| 0 | a b |", "| 1 | c d |"]
    assert not (written / "metrics.csv").exists()
