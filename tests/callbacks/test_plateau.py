"""Learning rates that fall where a metric does not improve, together with a schedule, also after a resume."""

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.helpers.bare import BARE
from vqlab.callbacks.plateau import Plateau
from vqlab.training.learning_rate import Schedule
from vqlab.training.optimization import Optimization


class Scored(lightning.LightningModule):
    """Logs the given scores, one for each validation, and keeps the rate of each step."""

    lr, base_lr, default_lr = 1.0, None, 1.0

    def __init__(self, scores):
        super().__init__()
        self.layer, self.scores, self.rates = nn.Linear(1, 1), scores, []

    def training_step(self, batch, batch_idx):
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.scores[(self.global_step - 1) // 2])

    def configure_optimizers(self):
        settings = Optimization(betas=(0.9, 0.99), schedule=Schedule("step", decay_steps=6))
        return settings.optimizer(self, self.parameters(), "layer")


def fit(scores, steps, ckpt_path=None, **options):
    data = DataLoader(torch.zeros(2, 1))
    plateau = Plateau(**{"patience": 2, "factor": 0.1, **options})
    trainer = lightning.Trainer(
        **BARE, max_steps=steps, max_epochs=-1, num_sanity_val_steps=0, callbacks=[plateau], log_every_n_steps=1
    )
    model = Scored(scores)
    trainer.fit(model, data, data, ckpt_path=ckpt_path)
    return model.rates, trainer


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_rates_fall_after_validations_without_a_better_score(mode, sign):
    scores = [sign * value for value in (5.0, 6.0, 4.0, 4.0, 4.1, 3.0, 3.5)]  # waits 1, 0, 1, 2 (falls), 0, 1
    rates, _ = fit(scores, 14, mode=mode)
    of_schedule = [0.5 ** (step // 6) for step in range(14)]
    # The fifth validation comes after step 10; the rate of the step after it was set before.
    assert rates == pytest.approx([rate * (1 if step <= 10 else 0.1) for step, rate in enumerate(of_schedule)])


def test_no_patience_changes_nothing_and_the_floor_holds():
    scores = [1.0] * 10
    assert fit(scores, 12, patience=None)[0][-1] == 0.5
    assert fit(scores, 18, patience=1, floor=0.05)[0][-1] == pytest.approx(0.25 * 0.05)


def test_a_resumed_run_waits_on(tmp_path):
    scores = [5.0, 6.0, 4.0, 4.0, 4.1, 3.0, 3.5]
    whole, _ = fit(scores, 14)
    begun, trainer = fit(scores, 8)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fit(scores, 14, tmp_path / "half.ckpt")
    assert begun + resumed == pytest.approx(whole)
