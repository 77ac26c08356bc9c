"""When last.ckpt and best.ckpt are written, and what they hold."""

from collections import defaultdict
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

from tests.helpers.bare import BARE
from vqlab.callbacks import LastAndBest

LAST, BEST = Path("checkpoints/last.ckpt"), Path("checkpoints/best.ckpt")


class Scored(BoringModel):
    """Logs the given scores, one per validation, and records the order of validations and checkpoints."""

    def __init__(self, scores=(), stop=None):
        super().__init__()
        self.scores, self.events, self.stop = list(scores), [], stop

    def training_step(self, batch, batch_idx):
        self.trainer.should_stop = self.global_step + 1 == self.stop
        return super().training_step(batch, batch_idx)

    def on_validation_start(self):
        self.events.append(("validation", self.global_step))

    def on_validation_epoch_end(self):
        if self.scores and not self.trainer.sanity_checking:
            self.log("val/loss", self.scores.pop(0))

    def on_save_checkpoint(self, checkpoint):
        self.events.append(("checkpoint", self.global_step))


class Recorder(lightning.Trainer):
    """Records the steps at which each file is written."""

    def save_checkpoint(self, filepath, *args, **kwargs):
        super().save_checkpoint(filepath, *args, **kwargs)
        self.written[filepath].append(step_of(filepath))
        assert self.written[filepath][-1] == self.global_step


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


def fit(callback, scores=(), ckpt_path=None, module=None, **settings):
    """Train in epochs of ten batches, with validations if ``val_check_interval`` is given."""
    limits = {"limit_train_batches": 10, "limit_val_batches": 2 * ("val_check_interval" in settings)}
    settings = {**BARE, **limits, "enable_checkpointing": True, "default_root_dir": ".", **settings}
    trainer = Recorder(callbacks=[callback], **settings)
    trainer.written = defaultdict(list)
    trainer.fit(module or Scored(scores), ckpt_path=ckpt_path)
    return trainer.written


@pytest.mark.parametrize(
    ("every", "settings", "steps"),
    [
        (4, {"max_steps": 10}, [4, 8, 10]),
        (2, {"max_epochs": 1, "accumulate_grad_batches": 4}, [2, 3]),
        (100, {"max_epochs": 5, "module": Scored(stop=7)}, [7]),
        (100, {"max_steps": 8, "val_check_interval": 3}, [3, 6, 8]),
    ],
)
def test_steps_at_which_last_is_written(every, settings, steps):
    assert fit(LastAndBest(every_n_steps=every), **settings) == {LAST: steps}


@pytest.mark.parametrize(
    ("mode", "scores", "steps", "best"),
    [
        ("min", [5.0, 3.0, 9.0, float("nan"), 1.0], [2, 4, 10], (1.0, 10)),
        ("max", [5.0, 3.0, 9.0, float("nan"), 1.0], [2, 6], (9.0, 6)),
        ("min", [2.0] * 5, [2], (2.0, 2)),
    ],
)
def test_best_is_written_when_the_monitor_improves(mode, scores, steps, best):
    callback = LastAndBest(every_n_steps=100, mode=mode)
    written = fit(callback, scores, val_check_interval=2, max_steps=10, num_sanity_val_steps=1)
    assert written == {LAST: [2, 4, 6, 8, 10], BEST: steps}
    assert (callback.best_score, callback.best_step) == best


def test_resumed_run_continues_from_the_best_score():
    fit(LastAndBest(), [2.0], val_check_interval=5, max_steps=5)
    callback = LastAndBest()
    fit(callback, [3.0, 1.0], val_check_interval=5, max_steps=10, ckpt_path=LAST)
    assert step_of(BEST) == 5, "3.0 is worse than the earlier 2.0"
    fit(callback, [1.5], val_check_interval=5, max_steps=15, ckpt_path=LAST)
    assert step_of(BEST) == 15
    assert (callback.best_score, callback.best_step) == (1.5, 15)


def test_checkpoint_of_a_step_with_a_validation_is_written_after_it():
    """From a checkpoint before the validation, Lightning would resume behind the validation."""
    module = Scored()
    fit(LastAndBest(every_n_steps=2), module=module, max_steps=8, val_check_interval=4, num_sanity_val_steps=0)
    for step in (4, 8):
        assert [event for event, at in module.events if at == step] == ["validation", "checkpoint"]
    assert ("checkpoint", 2) in module.events
