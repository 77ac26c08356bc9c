"""last.ckpt and best.ckpt: when they are written and what they hold."""

from pathlib import Path

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.helpers.bare import BARE
from vqlab.callbacks.checkpoints import LastAndBest

LAST, BEST = Path("checkpoints/last.ckpt"), Path("checkpoints/best.ckpt")


class Line(lightning.LightningModule):
    """Logs the given scores, one per validation, and notes the order of validations and checkpoints."""

    def __init__(self, scores=(), stop=None):
        super().__init__()
        self.layer, self.scores, self.events, self.stop = nn.Linear(2, 1), list(scores), [], stop

    def training_step(self, batch, batch_idx):
        self.trainer.should_stop = self.global_step + 1 == self.stop
        return self.layer(batch).square().mean()

    def on_validation_start(self):
        self.events.append(("validation", self.global_step))

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        if self.scores and not self.trainer.sanity_checking:
            self.log("val/loss", self.scores.pop(0))

    def on_save_checkpoint(self, checkpoint):
        self.events.append(("checkpoint", self.global_step))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Recorder(lightning.Trainer):
    """Notes the steps at which each file is written."""

    def save_checkpoint(self, filepath, *args, **kwargs):
        super().save_checkpoint(filepath, *args, **kwargs)
        self.written[filepath].append(step_of(filepath))
        assert self.written[filepath][-1] == self.global_step


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


def fit(callback, scores=(), val=False, ckpt_path=None, module=None, **settings):
    trainer = Recorder(**{**BARE, "enable_checkpointing": True}, callbacks=[callback], default_root_dir=".", **settings)
    trainer.written = {LAST: [], BEST: []}
    data = DataLoader(torch.randn(20, 2), batch_size=2)
    trainer.fit(module or Line(scores), data, DataLoader(torch.randn(2, 2)) if val else None, ckpt_path=ckpt_path)
    return trainer.written


@pytest.mark.parametrize(
    ("every", "settings", "steps"),
    [
        (4, {"max_steps": 10}, [4, 8, 10]),
        (2, {"max_epochs": 1, "accumulate_grad_batches": 4}, [2, 3]),
        (100, {"max_epochs": 5, "module": Line(stop=7)}, [7]),
        (100, {"max_steps": 8, "val": True, "val_check_interval": 3}, [3, 6, 8]),
    ],
)
def test_when_last_is_written(every, settings, steps):
    assert fit(LastAndBest(every_n_steps=every), **settings) == {LAST: steps, BEST: []}


@pytest.mark.parametrize(
    ("mode", "steps", "best"),
    [("min", [2, 4, 10], (1.0, 10)), ("max", [2, 6], (9.0, 6))],
)
def test_best_follows_the_monitor(mode, steps, best):
    scores = [5.0, 3.0, 9.0, float("nan"), 1.0]
    callback = LastAndBest(every_n_steps=100, mode=mode)
    written = fit(callback, scores, val=True, val_check_interval=2, max_steps=10)
    assert written == {LAST: [2, 4, 6, 8, 10], BEST: steps}
    assert (callback.best_score, callback.best_step) == best


def test_an_equal_score_is_not_better_and_the_sanity_check_writes_nothing():
    settings = {"val": True, "max_steps": 10, "num_sanity_val_steps": 1}
    assert fit(LastAndBest(), [2.0, 2.0], val_check_interval=5, **settings)[BEST] == [5]
    assert fit(LastAndBest(), [2.0], val_check_interval=10, **settings) == {LAST: [10], BEST: [10]}


def test_a_resumed_run_remembers_the_best():
    fit(LastAndBest(), [2.0], val=True, val_check_interval=5, max_steps=5)
    callback = LastAndBest()
    fit(callback, [3.0, 1.0], val=True, val_check_interval=5, max_steps=10, ckpt_path=LAST)
    assert step_of(BEST) == 5, "3.0 is worse than the 2.0 of before"
    fit(callback, [1.5], val=True, val_check_interval=5, max_steps=15, ckpt_path=LAST)
    assert step_of(BEST) == 15
    assert (callback.best_score, callback.best_step) == (1.5, 15)


def test_where_a_validation_follows_the_checkpoint_comes_after_it():
    """From a checkpoint before the validation, Lightning would resume behind it, and the validation would be lost."""
    module = Line()
    settings = {"max_steps": 8, "val_check_interval": 4, "num_sanity_val_steps": 0}
    fit(LastAndBest(every_n_steps=2), val=True, module=module, **settings)
    for step in (4, 8):
        assert [event for event, at in module.events if at == step] == ["validation", "checkpoint"]
    assert ("checkpoint", 2) in module.events
