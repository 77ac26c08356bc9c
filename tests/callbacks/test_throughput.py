"""Samples per second of the training batches alone."""

from types import SimpleNamespace

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.helpers.bare import BARE
from vqlab.callbacks.throughput import Throughput


class Clock:
    """Seconds that pass only where the test says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Slow(lightning.LightningModule):
    """A training step lasts 0.5 s, a validation step 50 s."""

    def __init__(self, clock):
        super().__init__()
        self.layer, self.clock, self.rates = nn.Linear(1, 1), clock, []

    def training_step(self, batch, batch_idx):
        self.clock.now += 0.5
        return self.layer(batch["image"]).mean()

    def validation_step(self, batch, batch_idx):
        self.clock.now += 50

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Read(lightning.Callback):
    def __init__(self):
        self.rates = {}

    def on_train_batch_start(self, trainer, *args):
        if "train/samples_per_second" in trainer.callback_metrics:
            self.rates[trainer.global_step] = float(trainer.callback_metrics["train/samples_per_second"])


@pytest.mark.parametrize("accumulate", [1, 3])
def test_training_batches_are_counted_and_validation_is_not(monkeypatch, accumulate):
    clock, read = Clock(), Read()
    monkeypatch.setattr("vqlab.callbacks.throughput.time.perf_counter", clock)
    loader = DataLoader([{"image": torch.zeros(1), "label": 0} for _ in range(32 * 3)], batch_size=8)
    trainer = lightning.Trainer(
        max_steps=8,
        log_every_n_steps=2,
        val_check_interval=4,
        accumulate_grad_batches=accumulate,
        **BARE,
        callbacks=[Throughput(), read],
    )
    trainer.fit(Slow(clock), loader, loader)
    assert max(read.rates) >= 5
    assert set(read.rates.values()) == {16.0}


def test_all_ranks_count():
    logged = {}
    module = SimpleNamespace(log=logged.__setitem__)
    loop = SimpleNamespace(_should_accumulate=lambda: False)
    trainer = SimpleNamespace(global_step=10, log_every_n_steps=10, world_size=4, fit_loop=loop)
    throughput = Throughput()
    throughput.seconds, throughput.samples = 2.0, 0
    throughput.started = float("inf")  # so that this batch itself adds nothing
    throughput.on_train_batch_start()
    throughput.on_train_batch_end(trainer, module, None, {"image": torch.zeros(20, 1)}, 0)
    assert logged["train/samples_per_second"] == pytest.approx(4 * 20 / 2.0, rel=0.01)
    assert (throughput.samples, throughput.seconds) == (0, 0.0)
