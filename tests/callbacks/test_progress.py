"""The figures of the progress bar, and how often it is drawn."""

import sys

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from vqlab.callbacks.progress import Progress


class Line(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().mean()
        self.log("train/loss", 1.25, prog_bar=True)
        self.log("train/psnr", 2.5)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_it_shows_the_models_figures_and_no_version(capsys):
    from lightning.pytorch.loggers import CSVLogger

    class Read(Progress):
        def on_train_end(self, trainer, pl_module):
            self.figures = self.get_metrics(trainer, pl_module)
            super().on_train_end(trainer, pl_module)

    bar = Read()
    logger = CSVLogger(".", version=3)  # this one has a version
    trainer = lightning.Trainer(
        max_steps=3,
        logger=logger,
        enable_checkpointing=False,
        enable_model_summary=False,
        accelerator="cpu",
        callbacks=[bar],
    )
    trainer.fit(Line(), DataLoader(torch.randn(3, 1)))
    assert bar.figures == {"train/loss": 1.25}
    shown = capsys.readouterr()
    assert "train/loss=1.250" in shown.out + shown.err
    assert "v_num" not in shown.out + shown.err


@pytest.mark.parametrize(("terminal", "rate"), [(True, 1), (False, 100)])
def test_a_log_file_is_not_filled(monkeypatch, terminal, rate):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    assert Progress().refresh_rate == rate
