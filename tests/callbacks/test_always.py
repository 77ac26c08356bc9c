"""Callbacks of every run: rates and throughput in the log, seeds of steps, batch-norm statistics, the progress bar."""

import csv
import time
from types import SimpleNamespace

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.helpers.bare import BARE
from tests.helpers.two_ranks import on_two_ranks
from vqlab.callbacks.always import BatchStatistics, LearningRates, Progress, StepSeed, Throughput
from vqlab.training.loggers.csv import CSVLog


class Line(lightning.LightningModule):
    """Draws a number and lets 0.5 s of ``clock`` pass in a training step, 50 s in a validation step."""

    def __init__(self, name=None):
        super().__init__()
        self.layer, self.name = nn.Linear(1, 1), name
        self.clock, self.rates, self.drawn = [100.0], [], []

    def training_step(self, batch, batch_idx):
        self.clock[0] += 0.5
        self.drawn.append(torch.rand(()).item())
        loss = self.layer(batch["x"] if isinstance(batch, dict) else batch).square().mean()
        self.log("train/loss", loss.detach() * 0 + 1.25, prog_bar=True)
        self.log("train/psnr", 2.5)
        return loss

    def validation_step(self, batch, batch_idx):
        self.clock[0] += 50

    def on_before_optimizer_step(self, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        config = {"scheduler": scheduler, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": {**config, "name": self.name} if self.name else config}


def fit(module, *callbacks, batches=7, val=None, ckpt_path=None, save=None, **settings):
    trainer = lightning.Trainer(**{**BARE, **settings}, callbacks=list(callbacks))
    trainer.fit(module, DataLoader(torch.randn(batches, 1)), val, ckpt_path=ckpt_path)
    if save:
        trainer.save_checkpoint(save)
    return module


@pytest.mark.parametrize(("name", "column"), [("lr/net", "lr/net"), (None, "lr")])
def test_the_rate_of_a_step_is_in_the_log_line_of_its_loss(name, column):
    module = fit(Line(name), LearningRates(), max_steps=6, log_every_n_steps=2, logger=CSVLog("run"))
    with open("run/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "3", "5"]
    assert [float(row[column]) for row in rows] == pytest.approx(module.rates[1::2])
    assert all(row["train/loss"] for row in rows)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_throughput_counts_training_batches_only(monkeypatch, accumulate):
    module = Line()
    monkeypatch.setattr(time, "perf_counter", lambda: module.clock[0])
    loader = DataLoader([{"x": torch.zeros(1)} for _ in range(32 * 3)], batch_size=8)
    settings = {"max_steps": 8, "log_every_n_steps": 2, "val_check_interval": 4, "accumulate_grad_batches": accumulate}
    trainer = lightning.Trainer(**{**BARE, "logger": CSVLog("run")}, **settings, callbacks=[Throughput()])
    trainer.fit(module, loader, loader)
    with open("run/metrics.csv") as file:
        rates = [row["train/samples_per_second"] for row in csv.DictReader(file) if row["train/samples_per_second"]]
    assert list(map(float, rates)) == [16.0] * 4


def seeded(step, rank=0, world=1):
    trainer = SimpleNamespace(global_step=step, global_rank=rank, world_size=world, accumulate_grad_batches=1)
    StepSeed().on_train_batch_start(trainer, None, None, 0)
    return tuple(torch.randint(2**62, (2,)).tolist())


def test_random_numbers_depend_on_seed_step_and_rank_only(monkeypatch):
    first = seeded(5)
    torch.manual_seed(99)
    assert seeded(5) == first
    drawn = [seeded(step, rank, 4) for step in range(50) for rank in range(4)]
    for seed in ("1", "2", "4294967295"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        drawn += [seeded(step, rank, 4) for step in range(50) for rank in range(4)]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_resumed_run_draws_what_an_uninterrupted_one_draws(accumulate):
    def drawn(steps, **settings):
        torch.rand(3)
        return fit(Line(), StepSeed(), max_steps=steps, accumulate_grad_batches=accumulate, **settings).drawn

    whole = drawn(12)
    assert len(set(whole)) == len(whole), "accumulated batches share no noise"
    assert drawn(5, save="five.ckpt") + drawn(12, ckpt_path="five.ckpt") == whole


def statistics(rank, world_size=2):
    torch.manual_seed(rank)
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    model(torch.randn(8, 1, 4, 4) + rank)
    before = model[1].running_mean.clone(), model[1].running_var.clone()
    BatchStatistics().on_train_batch_end(SimpleNamespace(world_size=world_size), model, None, None, 0)
    return [*before, model[1].running_mean, model[1].running_var]


def test_batch_statistics_are_averaged_over_ranks(tmp_path):
    one, other = on_two_ranks(statistics, tmp_path)
    for name in (0, 1):
        assert not torch.equal(one[name], other[name])
        torch.testing.assert_close(one[name + 2], (one[name] + other[name]) / 2)
        assert torch.equal(one[name + 2], other[name + 2])


def test_the_bar_shows_the_models_metrics_and_no_version(capsys):
    logger = lightning.pytorch.loggers.CSVLogger(".", version=3)  # has a version
    fit(Line(), Progress(), max_steps=3, logger=logger, enable_progress_bar=True)
    shown = "".join(capsys.readouterr())
    assert "train/loss=1.250" in shown
    assert "v_num" not in shown
