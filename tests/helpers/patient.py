"""A model whose loss, gradient and codebook metrics are functions of the step, under a Trainer that Health watches."""

import json
import math
from pathlib import Path

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.helpers.bare import BARE
from vqlab.callbacks.health.callback import Health, grad_norm
from vqlab.training.finite import require_finite

CODES = 100


class Patient(lightning.LightningModule):
    """A linear layer that logs what the functions give."""

    def __init__(self, loss=None, scale=None, usage=None, perplexity=None):
        super().__init__()
        self.layer, self.unused = nn.Linear(2, 1), nn.Linear(2, 2)
        self.quantizer = nn.Identity()
        self.quantizer.num_embeddings = CODES
        self.loss, self.scale = loss or (lambda step: math.exp(-step / 50)), scale or (lambda step: 1.0)
        self.usage, self.perplexity = usage, perplexity or (lambda step: CODES)
        self.norms = []

    def log_codes(self, stage):
        if self.usage:
            self.log(f"{stage}/codebook_usage", float(self.usage(self.global_step)))
            self.log(f"{stage}/perplexity", float(self.perplexity(self.global_step)))

    def training_step(self, batch, batch_idx):
        step = self.global_step
        loss = torch.tensor(float(self.loss(step)))
        require_finite({"loss": loss, "rec_loss": torch.tensor(0.0)}, batch_idx, step)
        self.log("train/loss", loss)
        self.log_codes("train")
        return self.scale(step) * self.layer(batch).sum()

    def on_before_optimizer_step(self, optimizer):
        self.norms.append(float(grad_norm(self.layer)))

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        self.log_codes("val")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-6)


def fit(patient, health=None, callbacks=(), every=1, val=False, steps=100, ckpt_path=None, **settings):
    settings = {**BARE, "enable_checkpointing": bool(callbacks), "default_root_dir": ".", **settings}
    callbacks = [health or Health(), *callbacks]
    trainer = lightning.Trainer(max_steps=steps, callbacks=callbacks, log_every_n_steps=every, **settings)
    loader = DataLoader(torch.ones(400, 2), batch_size=2)
    trainer.fit(patient, loader, DataLoader(torch.ones(1, 2)) if val else None, ckpt_path=ckpt_path)
    return trainer


def verdicts():
    path = Path("health.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    assert all(line["mend"] and {"time", "step", "event", "evidence"} <= line.keys() for line in lines)
    return {line["event"]: line for line in lines} if len({line["event"] for line in lines}) == len(lines) else lines
