"""metrics.csv keeps every line of killed and resumed runs."""

import csv

import pytest
from lightning.pytorch.utilities import rank_zero_only

from vqlab.training.loggers.csv import CSVLog, read_rows


def rows(path="run/metrics.csv"):
    """Read with the csv module, without empty cells and ``time``."""
    with open(path, newline="") as file:
        read = list(csv.DictReader(file))
    assert all(None not in row and None not in row.values() for row in read), "wrong number of cells"
    return [{k: float(v) for k, v in row.items() if v and k != "time"} for row in read]


def log(*steps):
    logger = CSVLog("run")
    for step in steps:
        logger.log_metrics({"loss": step + 0.5}, step)
    return logger


def test_lines_are_written_at_once():
    logger = CSVLog("run")
    values = {"a": 1 / 3, "b": 1e-30, "c": 123456789.123, "d": float("inf")}
    for step in range(3):
        logger.log_metrics(values, step)
        assert rows() == [{"step": s, **values} for s in range(step + 1)]
    logger.path.unlink()
    logger.log_metrics(values, 3)
    assert rows() == [{"step": 3, **values}], "the file may be deleted during the run"


def test_new_columns_keep_rows():
    logger = log(0, 1)
    logger.log_metrics({"val/psnr": 20.0}, 1)
    CSVLog("run").log_metrics({"acc": 0.75, "loss": 0.25, "a,b": 1.0, 'say "c"': 2.0}, 2)
    assert rows() == [
        {"step": 0, "loss": 0.5},
        {"step": 1, "loss": 1.5},
        {"step": 1, "val/psnr": 20.0},
        {"step": 2, "loss": 0.25, "acc": 0.75, "a,b": 1.0, 'say "c"': 2.0},
    ]
    with open("run/metrics.csv") as file:
        assert next(csv.reader(file)) == ["step", "time", "loss", "val/psnr", "acc", "a,b", 'say "c"']


@pytest.mark.parametrize("truncated", ["2,1", "2,1700000000.0,0.12345", "st"])
def test_truncated_last_line_is_ignored(truncated):
    logger = log(0, 1)
    with open(logger.path, "a") as file:
        file.write(truncated)
    assert [row["step"] for row in read_rows(logger.path)] == ["0", "1"]
    CSVLog("run").log_metrics({"loss": 9.0}, 2)
    assert rows() == [{"step": 0, "loss": 0.5}, {"step": 1, "loss": 1.5}, {"step": 2, "loss": 9.0}]


@pytest.mark.parametrize("content", ["", "step,ti", "step,time,loss\n0,1.0"])
def test_file_without_complete_line_is_continued(content, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.csv").write_text(content)
    logger = CSVLog("run")
    logger.resume_from(5)
    logger.log_metrics({"loss": 1.0}, 5)
    assert rows() == [{"step": 5, "loss": 1.0}]


def test_resumed_run_drops_later_steps_and_adds_unwritten_line():
    log(*range(4)).log_metrics({"val/loss": 4.0}, 3)
    last = {"step": 2, "time": 1.7e9, "loss": 2.5}
    expected = [{"step": step, "loss": step + 0.5} for step in range(3)]
    logger = CSVLog("run")
    logger.resume_from(2)
    assert rows() == expected[:2]
    for _ in range(2):  # adding it twice changes nothing
        logger.resume_from(3, last)
        assert rows() == expected
    logger.log_metrics({"val/loss": 1.0}, 3)
    assert rows() == [*expected, {"step": 3, "val/loss": 1.0}]


def test_other_ranks_write_nothing(monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = log(0, 1)
    logger.resume_from(0)
    assert not logger.path.exists()
