"""Callbacks of every run: rates and throughput in the log, seeds of steps, batch-norm statistics, the progress bar."""

import csv
import json
import time
from types import SimpleNamespace

import lightning
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn
from torch.utils.data import DataLoader

from tests.helpers.bare import BARE
from tests.helpers.two_ranks import on_two_ranks
from vqlab.callbacks.always import (
    BatchStatistics,
    Estimate,
    LastValidation,
    LearningRates,
    Progress,
    StepSeed,
    Throughput,
)
from vqlab.experiments.text import duration
from vqlab.training.loggers.csv import CSVLog


class Line(BoringModel):
    """Draws a number and advances ``clock`` by 0.5 s in a training step, by 50 s in a validation step."""

    def __init__(self, name=None):
        super().__init__()
        self.name, self.clock, self.rates, self.drawn = name, [100.0], [], []

    def training_step(self, batch, batch_idx):
        self.clock[0] += 0.5
        self.drawn.append(torch.rand(()).item())
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.log("train/loss", 1.25, prog_bar=True)
        return super().training_step(batch["x"], batch_idx)

    def validation_step(self, batch, batch_idx):
        self.clock[0] += 50

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        config = {"scheduler": scheduler, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": {**config, "name": self.name} if self.name else config}


def fit(module, *callbacks, batches=7, val=False, ckpt_path=None, save=None, **settings):
    trainer = lightning.Trainer(**{**BARE, **settings}, callbacks=list(callbacks))
    loader = DataLoader([{"x": torch.randn(32)} for _ in range(8 * batches)], batch_size=8)
    trainer.fit(module, loader, loader if val else None, ckpt_path=ckpt_path)
    if save:
        trainer.save_checkpoint(save)
    return module


def rows_of(run):
    with open(f"{run}/metrics.csv") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("name", "column"), [("lr/net", "lr/net"), (None, "lr")])
def test_rate_of_a_step_is_in_the_log_line_of_its_loss(name, column):
    module = fit(Line(name), LearningRates(), max_steps=6, log_every_n_steps=2, logger=CSVLog("run"))
    assert [row["step"] for row in rows_of("run")] == ["1", "3", "5"]
    assert [float(row[column]) for row in rows_of("run")] == pytest.approx(module.rates[1::2])
    assert all(row["train/loss"] for row in rows_of("run"))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_throughput_counts_training_batches_only(monkeypatch, accumulate):
    module = Line()
    monkeypatch.setattr(time, "perf_counter", lambda: module.clock[0])
    settings = {"max_steps": 8, "log_every_n_steps": 2, "val_check_interval": 4, "accumulate_grad_batches": accumulate}
    fit(module, Throughput(), batches=12, val=True, logger=CSVLog("run"), **settings)
    rates = [row["train/samples_per_second"] for row in rows_of("run") if row["train/samples_per_second"]]
    assert list(map(float, rates)) == [16.0] * 4


def estimate(module, monkeypatch, caplog, seconds, **settings):
    """Return the estimates of a training; a step takes ``seconds``, a validation batch a hundred times as long."""
    monkeypatch.setattr(time, "perf_counter", lambda: module.clock[0] * 2 * seconds)
    with caplog.at_level("INFO"):
        fit(module, Estimate(), **settings)
    return [record.getMessage() for record in caplog.records if "more steps" in record.getMessage()]


def test_time_of_the_training_is_estimated_from_its_first_batches(monkeypatch, caplog):
    found = estimate(Line(), monkeypatch, caplog, 3, max_steps=50, batches=50)
    assert found == ["43 more steps: about 2 minutes on this CPU"]  # 7 batches take more than 20 seconds


def test_estimate_is_printed_from_a_minute_on(monkeypatch, caplog):
    assert estimate(Line(), monkeypatch, caplog, 1, max_steps=50, batches=50) == []


def test_estimate_includes_the_validations(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("VQLAB_TIMES", str(tmp_path / "times.json"))
    before = time.time()
    settings = {"num_sanity_val_steps": 2, "limit_val_batches": 8, "val_check_interval": 10}
    found = estimate(Line(), monkeypatch, caplog, 1, max_steps=50, batches=50, val=True, **settings)
    assert found == ["40 more steps: about 54 minutes on this CPU"]  # 4 validations of 8 x 100 s, and 40 steps
    times = json.loads((tmp_path / "times.json").read_text())
    assert before < times.pop("start") < time.time()
    assert times == {"step": 1.0, "validation": 800.0, "epoch": 50}


@pytest.mark.parametrize(
    ("seconds", "text"), [(90, "90 seconds"), (5400, "90 minutes"), (20_000, "6 hours"), (1e6, "12 days")]
)
def test_duration_has_one_unit(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("interval", "validated"), [(4, [4, 8, 10]), (5, [5, 10])])
def test_last_step_is_validated_once(interval, validated):
    steps = []

    class Validated(lightning.Callback):
        def on_validation_start(self, trainer, *args):
            if not trainer.sanity_checking:
                steps.append(trainer.global_step)

    settings = {"check_val_every_n_epoch": None, "limit_val_batches": 1, "num_sanity_val_steps": 1}
    fit(
        Line(),
        LastValidation(),
        Validated(),
        max_steps=10,
        batches=7,
        val=True,
        val_check_interval=interval,
        **settings,
    )
    assert steps == validated


def seeded(step, rank=0, world=1):
    trainer = SimpleNamespace(global_step=step, global_rank=rank, world_size=world, accumulate_grad_batches=1)
    StepSeed().on_train_batch_start(trainer, None, None, 0)
    return tuple(torch.randint(2**62, (2,)).tolist())


def test_random_numbers_depend_on_seed_step_and_rank_only(monkeypatch):
    first = seeded(5)
    torch.manual_seed(99)
    assert seeded(5) == first
    drawn = []
    for seed in ("0", "1", "2", "4294967295"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        drawn += [seeded(step, rank, 4) for step in range(50) for rank in range(4)]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_resumed_run_draws_the_numbers_of_an_uninterrupted_run(accumulate):
    def drawn(steps, **settings):
        torch.rand(3)
        return fit(Line(), StepSeed(), max_steps=steps, accumulate_grad_batches=accumulate, **settings).drawn

    whole = drawn(12)
    assert len(set(whole)) == len(whole), "accumulated batches share no noise"
    assert drawn(5, save="five.ckpt") + drawn(12, ckpt_path="five.ckpt") == whole


def statistics(rank):
    torch.manual_seed(rank)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False))
    model(torch.randn(8, 3, 4, 4) + rank)
    before = model[0].running_mean.clone(), model[0].running_var.clone()
    BatchStatistics().on_train_batch_end(SimpleNamespace(world_size=2), model)
    return [*before, model[0].running_mean, model[0].running_var]


def test_batch_statistics_are_averaged_over_ranks(tmp_path):
    one, other = on_two_ranks(statistics, tmp_path)
    for name in (0, 1):
        assert not torch.equal(one[name], other[name])
        torch.testing.assert_close(one[name + 2], (one[name] + other[name]) / 2)
        assert torch.equal(one[name + 2], other[name + 2])


def test_progress_bar_shows_the_metrics_of_the_model_and_no_version(capsys):
    logger = lightning.pytorch.loggers.CSVLogger(".", version=3)  # has a version
    fit(Line(), Progress(), max_steps=3, logger=logger, enable_progress_bar=True)
    shown = "".join(capsys.readouterr())
    assert "train/loss=1.250" in shown
    assert "v_num" not in shown
