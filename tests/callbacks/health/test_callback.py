"""Each verdict speaks on a case that is made for it, once, and not on a healthy run."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.helpers.patient import CODES, Patient, fit, verdicts
from vqlab.callbacks.checkpoints import LastAndBest
from vqlab.callbacks.health.callback import Health, has_grad
from vqlab.callbacks.health.history import ENOUGH, HISTORY, detrended_spread
from vqlab.errors import UserError
from vqlab.training.finite import NonFiniteError


def test_a_healthy_run_is_left_alone(capsys):
    patient = Patient(
        loss=lambda step: math.exp(-step / 50) * (1.1 if step % 2 else 0.9),  # 10% of noise about a steady fall
        scale=lambda step: 2.0 if step % 2 else 1.0,
        usage=lambda step: 0.9,
    )
    fit(patient, Health(grace_steps=10), val=True, val_check_interval=50)
    assert verdicts() == {}
    assert "health:" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("usage", "perplexity", "collapsed"),
    [(0.19, 50, True), (0.9, 4.9, True), (0.21, 5.1, False)],
)
@pytest.mark.parametrize("stage", ["train", "val"])
def test_codebook_collapse(usage, perplexity, collapsed, stage):
    patient = Patient(usage=lambda step: usage, perplexity=lambda step: perplexity)
    if stage == "train":
        fit(patient, Health(grace_steps=30), every=4, steps=60)
        step = 32  # the first line of the log behind the grace
    else:
        fit(patient, Health(grace_steps=30), every=1000, steps=60, val=True, val_check_interval=25)
        step = 50
    if not collapsed:
        assert verdicts() == {}
        return
    verdict = verdicts()["codebook_collapse"]
    assert verdict["step"] == step
    assert f"{usage:.1%} of 100 codes" in verdict["evidence"]
    assert f"perplexity {perplexity:.1f} ({stage})" in verdict["evidence"]
    assert "--model.quantizer" in verdict["mend"]


@pytest.mark.parametrize(("usage", "collapsed"), [(0.1, True), (0.9, False)])
def test_the_model_says_which_codes_are_in_use(usage, collapsed):
    class Sampler(Patient):
        code_metrics_prefix = "posterior_"

        def on_validation_epoch_end(self):
            self.log_dict({"val/codebook_usage": 1 - usage, "val/perplexity": CODES})
            self.log_dict({"val/posterior_codebook_usage": usage, "val/posterior_perplexity": CODES})

    fit(Sampler(), Health(grace_steps=10), val=True, steps=60, val_check_interval=25)
    assert ("codebook_collapse" in verdicts()) == collapsed


def test_no_collapse_within_the_grace():
    fit(Patient(usage=lambda step: 0.01), Health(grace_steps=101), val=True, val_check_interval=10)
    assert verdicts() == {}


def test_loss_oscillation():
    fit(Patient(loss=lambda step: 10 * math.exp(-step / 5) + 1.0 + 0.5 * (-1) ** step))
    verdict = verdicts()["loss_oscillation"]
    assert verdict["step"] == 3 * ENOUGH, "it speaks as soon as the last third has enough values"
    assert "50% of its mean" in verdict["evidence"]


def test_a_steep_but_steady_fall_is_no_oscillation():
    fit(Patient(loss=lambda step: 10.0 - 0.09 * step))
    assert verdicts() == {}


def test_accumulated_batches_count_as_one():
    """Twelve steps are twelve values, of however many batches they consist."""
    health = Health()
    fit(Patient(), health, steps=12, accumulate_grad_batches=4)
    assert len(health.course.lines["loss"]) == len(health.course.lines["grad_norm"]) == 12


def test_exploding_gradient():
    patient = Patient(scale=lambda step: 500.0 if step == 40 else 1.0)
    fit(patient, gradient_clip_val=0.1)
    verdict = verdicts()["exploding_gradient"]
    assert verdict["step"] == 40
    assert "500 times its median" in verdict["evidence"], "the norm before clipping"
    assert "--trainer.gradient_clip_val" in verdict["mend"]


def test_a_gradient_that_was_always_large_does_not_explode():
    fit(Patient(scale=lambda step: 1e2 * (1 + step)))
    assert verdicts() == {}


def test_an_early_gradient_is_not_judged():
    fit(Patient(scale=lambda step: 500.0 if step == ENOUGH - 1 else 1.0), steps=40)
    assert verdicts() == {}


def test_a_gradient_that_is_not_finite_is_said():
    fit(Patient(scale=lambda step: math.inf if step == 40 else 1.0))
    assert verdicts()["exploding_gradient"]["step"] == 40


def test_non_finite_names_the_batch_and_the_last_good_checkpoint():
    patient = Patient(loss=lambda step: math.nan if step == 7 else 1.0)
    with pytest.raises(NonFiniteError):
        fit(patient, callbacks=[LastAndBest(every_n_steps=3)])
    verdict = verdicts()["non_finite"]
    assert (verdict["step"], verdict["batch_idx"]) == (7, 7)
    assert verdict["evidence"] == "loss not finite at batch 7"
    assert "--model.lr" in verdict["mend"]
    assert "--ckpt_path checkpoints/last.ckpt" in verdict["mend"]
    assert torch.load("checkpoints/last.ckpt", weights_only=True)["global_step"] == 6


def test_non_finite_without_a_checkpoint():
    with pytest.raises(NonFiniteError):
        fit(Patient(loss=lambda step: math.inf))
    assert "there is no checkpoint yet" in verdicts()["non_finite"]["mend"]


def test_other_exceptions_are_no_verdict():
    def fail(step):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(Patient(loss=fail))
    assert verdicts() == {}


def test_each_verdict_is_said_once_also_after_resuming(caplog):
    caplog.set_level("INFO")

    def ill():
        return Patient(loss=lambda step: 1.0 + 0.9 * (-1) ** step, usage=lambda step: 0.1)

    health = Health(grace_steps=5)
    fit(ill(), health, callbacks=[LastAndBest(monitor="val/perplexity")], steps=70, val=True, val_check_interval=10)
    assert set(verdicts()) == {"loss_oscillation", "codebook_collapse"}
    assert caplog.text.count("health: ") == 2
    assert caplog.text.count("health: codebook collapse at step 5: ") == 1
    resumed = Health(grace_steps=5)
    fit(ill(), resumed, steps=100, ckpt_path="checkpoints/last.ckpt")
    assert len(verdicts()) == 2, "said again"
    assert resumed.said == {"loss_oscillation", "codebook_collapse"}


def test_the_state_survives():
    health = Health()
    fit(Patient(), health, steps=30)
    for value in range(HISTORY):
        health.course.add({"loss": float(value)})
    state = json.loads(json.dumps(health.state_dict()))
    again = Health()
    again.load_state_dict(state)
    assert again.state_dict() == health.state_dict()
    assert (len(again.course.lines["loss"]), len(again.course.lines["grad_norm"])) == (HISTORY, 30)


def test_gradient_norms_are_logged_by_part():
    patient = Patient(scale=lambda step: step + 1.0)
    trainer = fit(patient, steps=6, every=3)
    assert float(trainer.callback_metrics["grad_norm/layer"]) == pytest.approx(patient.norms[5])
    assert patient.norms[5] == pytest.approx(6 * math.sqrt(2 * 2**2 + 2**2))
    assert "grad_norm/unused" not in trainer.callback_metrics
    assert not has_grad(patient.unused)


def test_the_spread_about_a_line():
    assert detrended_spread([5.0, 4.0, 3.0]) == pytest.approx(0)
    assert detrended_spread([1.0, 2.0]) == 0.0
    values = [10 + i / 10 + (1 if i % 2 else -1) for i in range(60)]
    assert detrended_spread(values) == pytest.approx(1 / 12.95, rel=0.01)


@pytest.mark.parametrize("name", ["min_usage", "min_perplexity"])
@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_shares_are_checked(name, value):
    with pytest.raises(UserError, match=rf"{name} must lie in \[0, 1\].*--health\.{name}"):
        Health(**{name: value})


def test_other_ranks_write_nothing():
    trainer = SimpleNamespace(is_global_zero=False, global_step=3, default_root_dir=".")
    Health().say(trainer, "event", "evidence", "mend")
    assert not Path("health.jsonl").exists()


def test_a_step_that_moves_the_weights_is_measured():
    health = Health()
    patient = Patient()
    before = patient.layer.weight.detach().clone()
    fit(patient, health, steps=1)
    expected = (patient.layer.weight - before).norm() / before.norm()
    assert health.sizes["layer"] == pytest.approx(float(before.norm()))
    assert health.course.lines["update_ratio"] == [pytest.approx(float(expected), rel=1e-4)]


def test_a_dead_part_and_a_rate_out_of_all_proportion_in_a_training():
    class Wild(Patient):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e3)

    fit(Wild(scale=lambda step: 0.0 if step >= 50 else (-1.0) ** step))
    assert verdicts()["vanishing_gradient"]["step"] == 54
    assert "grad_norm/layer" in verdicts()["vanishing_gradient"]["evidence"]
    assert verdicts()["learning_rate_too_high"]["step"] == 5


def test_sizes_are_those_of_the_start_of_the_training_also_after_resuming():
    health = Health()
    fit(Patient(), health, callbacks=[LastAndBest()], steps=20)
    resumed = Health()
    fit(Patient(), resumed, callbacks=[LastAndBest()], steps=30, ckpt_path="checkpoints/last.ckpt")
    assert resumed.sizes == health.sizes


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("better", [True, False])
def test_a_plateau_is_where_the_monitored_metric_is_no_better_in_its_own_direction(mode, better):
    class Scored(Patient):
        def on_validation_epoch_end(self):
            rises = (mode == "max") == better
            self.log("val/score", 10.0 + (1 if rises else -1) * self.global_step / 50)

    fit(
        Scored(loss=lambda step: 1.0),
        Health(),
        callbacks=[LastAndBest(monitor="val/score", mode=mode)],
        steps=200,
        val=True,
        val_check_interval=10,
    )
    assert ("plateau" in verdicts()) == (not better)
