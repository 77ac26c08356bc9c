"""metrics.csv read back."""

import math
from pathlib import Path

import pytest
import torch

from vqlab.experiments.metrics_log import best_of, read_log
from vqlab.training.loggers.csv import CSVLog

PATH = Path("folder/metrics.csv")


def write(lines=50):
    logger, expected = CSVLog("folder"), {}
    for step in range(0, lines * 5, 5):
        metrics = {"train/loss": torch.rand(()).item(), "epoch": 0}
        if step % 20 == 0:
            metrics["val/psnr"] = torch.randn(()).item()
        logger.log_metrics(metrics, step)
        for name in metrics.keys() - {"epoch"}:
            expected.setdefault(name, []).append((step + 1, metrics[name]))
    return expected


def test_every_figure_comes_back_with_the_steps_done():
    expected = write()
    log = read_log(PATH)
    assert log.series == expected
    assert (log.steps, log.damaged, len(log.times)) == (246, 0, 50)


@pytest.mark.parametrize("cut", [1, 3, 15])
def test_a_line_that_was_cut_short_is_left_out(cut):
    expected = write()
    PATH.write_text(PATH.read_text()[:-cut])
    log = read_log(PATH)
    assert log.damaged == 1
    assert log.series["train/loss"] == expected["train/loss"][:-1]


@pytest.mark.parametrize(
    ("content", "damaged", "losses"),
    [
        (b"", 0, None),
        (b"step,loss", 1, None),
        (b"step,loss\n", 0, None),
        (b"loss,acc\n1,2\n", 1, None),
        (b"\x00\xff\x00\n\x01,\xfe\n", 1, None),
        (b"step,loss\n0,1\nx,2\n\n1\n2,3,4\n3,\n4,a\n5,6\n", 5, [(1, 1.0), (6, 6.0)]),
        (b"step,loss\n0,nan\n1,inf\n2,1e-3\n", 0, [(1, math.nan), (2, math.inf), (3, 1e-3)]),
    ],
)
def test_damage_is_counted(content, damaged, losses):
    PATH.parent.mkdir()
    PATH.write_bytes(content)
    log = read_log(PATH)
    assert log.damaged == damaged
    assert str(log.series.get("loss")) == str(losses)  # NaN is not equal to itself


def test_the_best_is_the_first_of_the_finite_ones():
    values = torch.randn(40).tolist()
    values[3] = values[17] = min(values)
    series = [(step, value) for step, value in enumerate(values)]
    assert best_of([(0, math.nan), *series, (41, -math.inf)], "min") == (3, min(values))
    assert best_of(series, "max") == (values.index(max(values)), max(values))
    assert best_of([(1, math.nan)], "min") is None
