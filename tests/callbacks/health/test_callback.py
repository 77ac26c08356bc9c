"""Health in a training: what it records, when it reports an event, and how it stops a run."""

import math
from typing import ClassVar

import lightning
import pytest
import torch

from tests.helpers.patient import CODES, Patient, fit, verdicts
from vqlab.callbacks.checkpoints import LastAndBest
from vqlab.callbacks.health.callback import Health
from vqlab.training.finite import NonFiniteError


@pytest.mark.parametrize(("usage", "perplexity"), [(0.19, 50), (0.9, 4.9)])
@pytest.mark.parametrize(("stage", "every", "step"), [("train", 4, 32), ("val", 1000, 50)])
def test_a_collapse_is_reported_after_the_grace(usage, perplexity, stage, every, step):
    patient = Patient(usage=lambda step: usage, perplexity=lambda step: perplexity)
    fit(patient, Health(grace_steps=30), every=every, steps=60, val=stage == "val", val_check_interval=25)
    (event,) = verdicts().values()
    assert (event["event"], event["step"]) == ("codebook_collapse", step)
    assert event["evidence"] == f"{usage:.1%} of 100 codes used, perplexity {perplexity:.1f} ({stage})"
    assert "--model.quantizer" in event["mend"]


def test_a_model_chooses_metrics_and_hints():
    class Sampler(Patient):
        code_metrics_prefix, health_ignored = "posterior_", ("codebook_usage",)
        health_hints: ClassVar = {"codebook_collapse": "draw more"}
        posterior_usage = 0.9

        def on_validation_epoch_end(self):
            self.log_dict({"val/codebook_usage": 0.1, "val/perplexity": CODES})
            self.log_dict({"val/posterior_codebook_usage": self.posterior_usage, "val/posterior_perplexity": CODES})

    fit(Sampler(usage=lambda step: 0.01), Health(grace_steps=10), val=True, steps=60, val_check_interval=25)
    assert verdicts() == {}
    Sampler.posterior_usage = 0.1
    fit(Sampler(), Health(grace_steps=10), val=True, steps=60, val_check_interval=25)
    assert verdicts()["codebook_collapse"]["mend"] == "draw more"


def test_an_exploding_gradient_is_that_before_clipping():
    fit(Patient(scale=lambda step: 500.0 if step == 40 else 1.0), gradient_clip_val=0.1)
    event = verdicts()["exploding_gradient"]
    assert (event["step"], "500 times its median" in event["evidence"]) == (40, True)
    assert "--trainer.gradient_clip_val" in event["mend"]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("improves", [True, False])
def test_a_plateau_of_the_monitored_metric_in_its_mode(mode, improves):
    class Scored(Patient):
        def on_validation_epoch_end(self):
            rises = (mode == "max") == improves
            self.log("val/score", 10.0 + (1 if rises else -1) * self.global_step / 50)

    best = LastAndBest(monitor="val/score", mode=mode)
    fit(Scored(loss=lambda step: 1.0), callbacks=[best], steps=200, val=True, val_check_interval=10)
    assert ("plateau" in verdicts()) == (not improves)


def test_non_finite_names_the_batch_and_the_last_checkpoint():
    patient = Patient(loss=lambda step: math.nan if step == 7 else 1.0)
    with pytest.raises(NonFiniteError):
        fit(patient, callbacks=[LastAndBest(every_n_steps=3)])
    event = verdicts()["non_finite"]
    assert (event["step"], event["batch_idx"]) == (7, 7)
    assert event["evidence"] == "loss not finite at batch 7"
    assert "--model.lr" in event["mend"]
    assert "--ckpt_path checkpoints/last.ckpt" in event["mend"]
    assert torch.load("checkpoints/last.ckpt", weights_only=True)["global_step"] == 6


def test_each_event_is_reported_once_also_after_resuming(caplog):
    caplog.set_level("INFO")

    def failing():
        return Patient(loss=lambda step: 1.0 + 0.9 * (-1) ** step, usage=lambda step: 0.1)

    health, best = Health(grace_steps=5), LastAndBest(monitor="val/perplexity")
    fit(failing(), health, callbacks=[best], steps=70, val=True, val_check_interval=10)
    assert set(verdicts()) == {"loss_oscillation", "codebook_collapse"}
    assert caplog.text.count("health: ") == 2
    assert caplog.text.count("health: codebook collapse at step 5: ") == 1
    resumed = Health(grace_steps=5)
    fit(failing(), resumed, steps=100, ckpt_path="checkpoints/last.ckpt")
    assert len(verdicts()) == 2
    assert resumed.reported == {"loss_oscillation", "codebook_collapse"}
    assert resumed.sizes == health.sizes, "those of the start of the training"


def test_gradient_norms_are_logged_by_part():
    patient = Patient(scale=lambda step: step + 1.0)
    trainer = fit(patient, steps=6, every=3)
    assert float(trainer.callback_metrics["grad_norm/layer"]) == pytest.approx(patient.norms[5])
    assert patient.norms[5] == pytest.approx(6 * math.sqrt(2 * 2**2 + 2**2))
    assert "grad_norm/unused" not in trainer.callback_metrics


def test_lines_are_counted_in_steps_and_changes_of_weights_are_measured():
    health, patient = Health(), Patient()
    before = patient.layer.weight.detach().clone()
    fit(patient, health, steps=1, accumulate_grad_batches=4)
    expected = (patient.layer.weight - before).norm() / before.norm()
    assert health.sizes["layer"] == pytest.approx(float(before.norm()))
    assert health.history.lines["update_ratio"] == [pytest.approx(expected.item(), rel=1e-4)]
    fit(Patient(), again := Health(), steps=12, accumulate_grad_batches=4)
    assert len(again.history.lines["loss"]) == len(again.history.lines["grad_norm"]) == 12


# stop


def diverging():
    return Patient(loss=lambda step: 1.0 if step < 40 else 9.0, usage=lambda step: 0.1 if step > 60 else 0.9)


@pytest.mark.parametrize(
    ("stop", "end"), [(True, 45), (["codebook_collapse"], 62), (["mode_collapse"], 100), (False, 100)]
)
def test_a_run_stops_at_the_listed_events(stop, end, caplog):
    caplog.set_level("INFO")
    trainer = fit(diverging(), Health(stop=stop, grace_steps=10), callbacks=[LastAndBest()])
    assert trainer.global_step == end
    assert torch.load("checkpoints/last.ckpt", weights_only=True)["global_step"] == end
    assert ("health: stopped at step" in caplog.text) == (end < 100)
    if end < 100:
        assert "resume with --ckpt_path checkpoints/last.ckpt" in caplog.text
        again = fit(diverging(), Health(stop=list(verdicts())), ckpt_path="checkpoints/last.ckpt")
        assert again.global_step == 100, "a resumed run goes on"


def test_all_ranks_stop_where_the_first_does(monkeypatch):
    monkeypatch.setattr(lightning.pytorch.strategies.Strategy, "reduce_boolean_decision", lambda *_, **__: True)
    assert fit(Patient(), Health(stop=True)).global_step == 1
    assert fit(Patient(), Health()).global_step == 100
