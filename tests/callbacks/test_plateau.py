"""Plateau lowers the learning rates of a schedule, also after a resume."""

import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader

from tests.helpers.bare import trainer
from vqlab.callbacks import Plateau
from vqlab.training import Optimization, Schedule

SCORES = [5.0, 6.0, 4.0, 4.0, 4.1, 3.0, 3.5]  # Plateau waits 1, 0, 1, 2 (lowers the rate), 0, 1


class Scored(BoringModel):
    """Logs the given scores, one for each validation, and records the rate of each step."""

    lr, base_lr, default_lr = 1.0, None, 1.0

    def __init__(self, scores):
        super().__init__()
        self.scores, self.rates = scores, []

    def training_step(self, batch, batch_idx):
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.scores[(self.global_step - 1) // 2])

    def configure_optimizers(self):
        settings = Optimization(betas=(0.9, 0.99), schedule=Schedule("step", decay_steps=6))
        return settings.optimizer(self, self.parameters(), "layer")


def fit(scores, steps, ckpt_path=None, save=None, **options):
    """Train with two batches per epoch, and a validation after each; return the rates."""
    model, data = Scored(scores), DataLoader(torch.zeros(2, 32))
    run = trainer(Plateau(**{"patience": 2, "factor": 0.1, **options}), max_steps=steps)
    run.fit(model, data, data, ckpt_path=ckpt_path)
    if save:
        run.save_checkpoint(save)
    return model.rates


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_rates_fall_after_validations_without_a_better_score(mode, sign):
    rates = fit([sign * score for score in SCORES], 14, mode=mode)
    # The fifth validation comes after step 10; the rate of the next step was set before.
    assert rates == pytest.approx([0.5 ** (step // 6) * (1 if step <= 10 else 0.1) for step in range(14)])


def test_no_patience_changes_nothing_and_the_floor_limits_the_factor():
    assert fit([1.0] * 10, 12, patience=None)[-1] == 0.5
    assert fit([1.0] * 10, 18, patience=1, floor=0.05)[-1] == pytest.approx(0.25 * 0.05)


def test_resumed_run_has_the_rates_of_an_uninterrupted_run():
    assert fit(SCORES, 8, save="half.ckpt") + fit(SCORES, 14, "half.ckpt") == pytest.approx(fit(SCORES, 14))
