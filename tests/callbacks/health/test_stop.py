"""A run ends at a verdict if it is told to, on all ranks, and can go on."""

import lightning
import pytest
import torch

from tests.helpers.patient import Patient, fit, verdicts
from vqlab.callbacks.checkpoints import LastAndBest
from vqlab.callbacks.health.callback import Health
from vqlab.errors import UserError


def diverging():
    return Patient(loss=lambda step: 1.0 if step < 40 else 9.0, usage=lambda step: 0.1 if step > 60 else 0.9)


@pytest.mark.parametrize("stop", [True, ["codebook_collapse"], ["mode_collapse"], False])
def test_a_run_ends_at_the_verdicts_that_are_named(stop, caplog):
    caplog.set_level("INFO")
    trainer = fit(diverging(), Health(stop=stop, grace_steps=10), callbacks=[LastAndBest()])
    ended = {True: 45, "codebook_collapse": 62}.get(stop if stop is True else (stop or [""])[0], 100)
    assert trainer.global_step == ended
    assert torch.load("checkpoints/last.ckpt", weights_only=True)["global_step"] == ended
    assert ("health: stopped at step" in caplog.text) == (ended < 100)
    if ended < 100:
        assert "resume with --ckpt_path checkpoints/last.ckpt" in caplog.text


def test_a_run_that_was_ended_goes_on_when_resumed():
    fit(diverging(), Health(stop=["loss_divergence"]), callbacks=[LastAndBest()])
    assert set(verdicts()) == {"loss_divergence"}
    trainer = fit(diverging(), Health(stop=["loss_divergence"]), ckpt_path="checkpoints/last.ckpt")
    assert trainer.global_step == 100


def test_a_run_that_ends_at_a_validation_validates_once():
    patient = Patient(usage=lambda step: 0.1)
    health = Health(stop=True, grace_steps=30)
    trainer = fit(patient, health, every=1000, steps=60, val=True, val_check_interval=25)
    assert trainer.global_step == 50
    assert health.course.validations["step"] == [25, 50]


def test_unknown_verdicts_are_refused():
    with pytest.raises(UserError, match=r"no verdict bad_luck: set --health\.stop to true, or to some of blur, "):
        Health(stop=["bad_luck"])


def test_all_ranks_end_where_the_first_does(monkeypatch):
    monkeypatch.setattr(lightning.pytorch.strategies.Strategy, "reduce_boolean_decision", lambda *_, **__: True)
    assert fit(Patient(), Health(stop=True)).global_step == 1
    assert fit(Patient(), Health()).global_step == 100
