"""Health in a training: what it records, when it reports an event, and how it stops a run."""

import json
import math
from pathlib import Path
from typing import ClassVar

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.helpers.bare import trainer
from vqlab.callbacks import Health, LastAndBest
from vqlab.training.steps import NonFiniteError, require_finite

CODES, LAST = 100, "checkpoints/last.ckpt"


class Patient(lightning.LightningModule):
    """A linear layer that logs a loss and codebook metrics; these and the gradient are functions of the step."""

    def __init__(self, loss=lambda step: math.exp(-step / 50), scale=lambda step: 1.0, usage=None, perplexity=CODES):
        super().__init__()
        self.layer, self.unused, self.quantizer = nn.Linear(2, 1), nn.Linear(2, 2), nn.Identity()
        self.quantizer.num_embeddings = CODES
        self.loss, self.scale, self.usage, self.perplexity = loss, scale, usage, float(perplexity)

    def log_codes(self, stage):
        if self.usage:
            self.log(f"{stage}/codebook_usage", float(self.usage(self.global_step)))
            self.log(f"{stage}/perplexity", self.perplexity)

    def training_step(self, batch, batch_idx):
        loss = torch.tensor(float(self.loss(self.global_step)))
        require_finite({"loss": loss, "rec_loss": torch.tensor(0.0)}, batch_idx, self.global_step)
        self.log("train/loss", loss)
        self.log_codes("train")
        return self.scale(self.global_step) * self.layer(batch).sum()

    def validation_step(self, batch, batch_idx):
        self.log_codes("val")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-6)


def fit(patient, health=None, callbacks=(), steps=100, ckpt_path=None, **settings):
    """Train on batches of ones, with validations if ``val_check_interval`` is given."""
    usual = {"enable_checkpointing": bool(callbacks), "default_root_dir": ".", "max_steps": steps}
    run = trainer(health or Health(), *callbacks, **{**usual, **settings})
    held_out = DataLoader(torch.ones(1, 2)) if "val_check_interval" in settings else None
    run.fit(patient, DataLoader(torch.ones(400, 2), batch_size=2), held_out, ckpt_path=ckpt_path)
    return run


def events():
    """Return the lines of health.jsonl by event."""
    path = Path("health.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    assert all(line["hint"] and {"time", "step", "event", "evidence"} <= line.keys() for line in lines)
    assert len({line["event"] for line in lines}) == len(lines), "each event is reported once"
    return {line["event"]: line for line in lines}


@pytest.mark.parametrize(("usage", "perplexity"), [(0.19, 50), (0.9, 4.9)])
@pytest.mark.parametrize(("stage", "every", "step"), [("train", 4, 32), ("val", 1000, 50)])
def test_collapse_is_reported_after_the_grace_steps(usage, perplexity, stage, every, step):
    settings = {"val_check_interval": 25} if stage == "val" else {}
    patient = Patient(usage=lambda step: usage, perplexity=perplexity)
    fit(patient, Health(grace_steps=30), log_every_n_steps=every, steps=60, **settings)
    (event,) = events().values()
    assert (event["event"], event["step"]) == ("codebook_collapse", step)
    assert event["evidence"] == f"{usage:.1%} of 100 codes used, perplexity {perplexity:.1f} ({stage})"
    assert "--model.quantizer" in event["hint"]


def test_model_chooses_metrics_and_hints():
    class Sampler(Patient):
        code_metrics_prefix, health_ignored = "posterior_", ("codebook_usage",)
        health_hints: ClassVar = {"codebook_collapse": "draw more"}
        posterior_usage = 0.9

        def validation_step(self, batch, batch_idx):
            self.log_dict({"val/codebook_usage": 0.1, "val/perplexity": CODES})
            self.log_dict({"val/posterior_codebook_usage": self.posterior_usage, "val/posterior_perplexity": CODES})

    fit(Sampler(usage=lambda step: 0.01), Health(grace_steps=10), steps=60, val_check_interval=25)
    assert events() == {}
    Sampler.posterior_usage = 0.1
    fit(Sampler(), Health(grace_steps=10), steps=60, val_check_interval=25)
    assert events()["codebook_collapse"]["hint"] == "draw more"


def test_exploding_gradient_is_measured_before_clipping():
    fit(Patient(scale=lambda step: 500.0 if step == 40 else 1.0), gradient_clip_val=0.1)
    event = events()["exploding_gradient"]
    assert (event["step"], "500 times its median" in event["evidence"]) == (40, True)
    assert "--trainer.gradient_clip_val" in event["hint"]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("improves", [True, False])
def test_plateau_uses_the_monitored_metric_and_its_mode(mode, improves):
    class Scored(Patient):
        def validation_step(self, batch, batch_idx):
            rises = (mode == "max") == improves
            self.log("val/score", 10.0 + (1 if rises else -1) * self.global_step / 50)

    best = LastAndBest(monitor="val/score", mode=mode)
    fit(Scored(loss=lambda step: 1.0), callbacks=[best], steps=200, val_check_interval=10)
    assert ("plateau" in events()) == (not improves)


def test_non_finite_names_the_batch_and_the_last_checkpoint():
    patient = Patient(loss=lambda step: math.nan if step == 7 else 1.0)
    with pytest.raises(NonFiniteError):
        fit(patient, callbacks=[LastAndBest(every_n_steps=3)])
    event = events()["non_finite"]
    assert (event["step"], event["batch_idx"]) == (7, 7)
    assert event["evidence"] == "loss not finite at batch 7"
    assert "--model.lr" in event["hint"]
    assert f"--ckpt_path {LAST}" in event["hint"]
    assert torch.load(LAST, weights_only=True)["global_step"] == 6


def test_each_event_is_reported_once_also_after_resuming(caplog):
    caplog.set_level("INFO")
    failing = {"loss": lambda step: 1.0 + 0.9 * (-1) ** step, "usage": lambda step: 0.1}
    health, best = Health(grace_steps=5), LastAndBest(monitor="val/perplexity")
    fit(Patient(**failing), health, callbacks=[best], steps=70, val_check_interval=10)
    assert set(events()) == {"loss_oscillation", "codebook_collapse"}
    assert caplog.text.count("health: ") == 2
    assert caplog.text.count("health: codebook collapse at step 5: ") == 1
    resumed = Health(grace_steps=5)
    fit(Patient(**failing), resumed, ckpt_path=LAST)
    assert set(events()) == resumed.reported == {"loss_oscillation", "codebook_collapse"}
    assert resumed.sizes == health.sizes, "those of the start of the training"


def test_gradient_norms_are_logged_by_part():
    metrics = fit(Patient(scale=lambda step: step + 1.0), steps=6, log_every_n_steps=3).callback_metrics
    assert float(metrics["grad_norm/layer"]) == pytest.approx(6 * math.sqrt(2 * 2**2 + 2**2))
    assert "grad_norm/unused" not in metrics


def test_log_lines_are_counted_in_steps_and_changes_of_weights_are_measured():
    health, patient = Health(), Patient()
    before = patient.layer.weight.detach().clone()
    fit(patient, health, steps=1, accumulate_grad_batches=4)
    expected = (patient.layer.weight - before).norm() / before.norm()
    assert health.sizes["layer"] == pytest.approx(float(before.norm()))
    assert health.history.lines["update_ratio"] == [pytest.approx(expected.item(), rel=1e-4)]
    fit(Patient(), again := Health(), steps=12, accumulate_grad_batches=4)
    assert len(again.history.lines["loss"]) == len(again.history.lines["grad_norm"]) == 12


@pytest.mark.parametrize(
    ("stop", "end"), [(True, 45), (["codebook_collapse"], 62), (["mode_collapse"], 100), (False, 100)]
)
def test_run_stops_at_the_listed_events_and_continues_after_a_resume(stop, end, caplog):
    caplog.set_level("INFO")
    diverging = {"loss": lambda step: 1.0 if step < 40 else 9.0, "usage": lambda step: 0.1 if step > 60 else 0.9}
    assert fit(Patient(**diverging), Health(stop=stop, grace_steps=10), callbacks=[LastAndBest()]).global_step == end
    assert torch.load(LAST, weights_only=True)["global_step"] == end
    assert ("health: stopped at step" in caplog.text) == (end < 100)
    if end < 100:
        assert f"resume with --ckpt_path {LAST}" in caplog.text
        assert fit(Patient(**diverging), Health(stop=list(events())), ckpt_path=LAST).global_step == 100


def test_all_ranks_stop_when_the_first_stops(monkeypatch):
    monkeypatch.setattr(lightning.pytorch.strategies.Strategy, "reduce_boolean_decision", lambda *_, **__: True)
    assert fit(Patient(), Health(stop=True)).global_step == 1
    assert fit(Patient(), Health()).global_step == 100
