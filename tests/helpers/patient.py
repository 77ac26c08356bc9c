"""A model that is as ill as it is told to be, under a Trainer that Health watches."""

import json
import math
from pathlib import Path

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader

from vqlab.callbacks.health.callback import Health, grad_norm
from vqlab.training.finite import require_finite

CODES = 100


class Patient(lightning.LightningModule):
    """A model whose loss, gradient and codebook figures are told by functions of the step."""

    def __init__(self, loss=None, scale=None, usage=None, perplexity=None):
        super().__init__()
        self.layer, self.unused = nn.Linear(2, 1), nn.Linear(2, 2)
        self.quantizer = nn.Identity()
        self.quantizer.num_embeddings = CODES
        self.loss, self.scale = loss or (lambda step: math.exp(-step / 50)), scale or (lambda step: 1.0)
        self.usage, self.perplexity = usage, perplexity
        self.norms = []

    def training_step(self, batch, batch_idx):
        step = self.global_step
        loss = torch.tensor(float(self.loss(step)))
        require_finite({"loss": loss, "rec_loss": torch.tensor(0.0)}, batch_idx, step)
        self.log("train/loss", loss)
        if self.usage:
            self.log("train/codebook_usage", float(self.usage(step)))
            self.log("train/perplexity", float((self.perplexity or (lambda _: CODES))(step)))
        return self.scale(step) * self.layer(batch).sum()

    def on_before_optimizer_step(self, optimizer):
        self.norms.append(float(grad_norm(self.layer)))

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        if self.usage:
            self.log("val/codebook_usage", float(self.usage(self.global_step)))
            self.log("val/perplexity", float((self.perplexity or (lambda _: CODES))(self.global_step)))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-6)


def fit(patient, health=None, callbacks=(), every=1, val=False, steps=100, ckpt_path=None, **settings):
    trainer = lightning.Trainer(
        max_steps=steps,
        logger=False,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        callbacks=[health or Health(), *callbacks],
        log_every_n_steps=every,
        default_root_dir=".",
        **settings,
    )
    loader = DataLoader(torch.ones(400, 2), batch_size=2)
    trainer.fit(patient, loader, DataLoader(torch.ones(1, 2)) if val else None, ckpt_path=ckpt_path)
    return trainer


def verdicts():
    path = Path("health.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for line in lines:
        assert {"time", "step", "event", "evidence", "mend"} <= line.keys()
        assert line["mend"]
    return {line["event"]: line for line in lines} if len({line["event"] for line in lines}) == len(lines) else lines
