"""The rate of a step stands in the line of that step."""

import csv

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from vqlab.callbacks.learning_rates import LearningRates
from vqlab.training.loggers.csv import CSVLog


class Line(lightning.LightningModule):
    def __init__(self, name):
        super().__init__()
        self.layer, self.name, self.used = nn.Linear(1, 1), name, []

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def on_before_optimizer_step(self, optimizer):
        self.used.append(optimizer.param_groups[0]["lr"])

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        config = {"scheduler": scheduler, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": {**config, "name": self.name} if self.name else config}


@pytest.mark.parametrize(("name", "column"), [("lr/net", "lr/net"), (None, "lr")])
def test_the_rate_that_a_step_used_is_logged_with_its_loss(name, column):
    module = Line(name)
    trainer = lightning.Trainer(
        max_steps=6,
        log_every_n_steps=2,
        logger=CSVLog("run"),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        callbacks=[LearningRates()],
    )
    trainer.fit(module, DataLoader(torch.randn(4, 1)))
    with open("run/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "3", "5"]
    assert [float(row[column]) for row in rows] == pytest.approx(module.used[1::2])
    assert all(row["train/loss"] for row in rows)
