"""What TensorBoard and W&B hold, read back from their files."""

import time
from pathlib import Path

import torch

from tests.e2e.tiny import FIT, fails
from tests.helpers.logs_read_back import read_tensorboard, read_wandb
from vqlab.training.loggers.boards import tensorboard_logger, wandb_logger
from vqlab.training.loggers.csv import CSVLog
from vqlab.training.loggers.media import log_histogram, log_image, log_table


def test_images_tables_and_histograms(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    wandb = wandb_logger("run", "vqlab", "offline")
    loggers = [CSVLog("run"), tensorboard_logger("run"), wandb]
    log_image(loggers, "samples/step", torch.rand(3, 20, 30), 4)
    log_table(loggers, "samples/words", ("topic", "words"), [(0, "a b"), (1, "c d")], 4)
    log_histogram(loggers, "samples/uses", torch.tensor([0, 0, 0, 7]), 4)
    loggers[1].finalize("success")
    wandb.experiment.finish()

    for _ in range(100):  # W&B writes in a process of its own
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


def test_a_log_on_a_full_disk_ends_the_run(capsys, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vqlab.training.loggers.csv._lines", full)
    complaint = fails(capsys, [*FIT, "--name=run", "--trainer.max_steps=10"])
    assert "no space left for runs/vqvae/run/metrics.csv" in complaint
