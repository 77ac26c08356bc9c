"""EMA against an average that is computed in float64."""

import copy

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.helpers.bare import BARE
from vqlab.callbacks import EMA, LastAndBest

DECAY = 0.4  # the warm-up reaches it at the fifth update after the first
LAST = "checkpoints/last.ckpt"


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.steps, self.weights = [], []  # after each training batch
        self.validated = []  # (step, buffer, weights) of each validation batch

    def training_step(self, batch, batch_idx):
        self.seen += len(batch)
        return self.layers(batch).square().mean()

    def on_train_batch_end(self, *args):
        self.steps.append(self.global_step)
        self.weights.append(weights(self))

    def validation_step(self, batch, batch_idx):
        self.validated.append((self.global_step, int(self.seen), weights(self)))

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05)


class TwoOptimizers(Net):
    """Steps two optimizers per batch with manual optimization, as a GAN: global_step rises by two."""

    def __init__(self, every=1):
        super().__init__()
        self.automatic_optimization, self.every = False, every

    def training_step(self, batch, batch_idx):
        if (batch_idx + 1) % self.every:
            return
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(layer.parameters(), lr=0.05) for layer in (self.layers[0], self.layers[2])]


def weights(module):
    return {name: p.detach().clone().double() for name, p in module.named_parameters()}


def average(recorded):
    """w_avg <- d w_avg + (1 - d) w, d = min(decay, (1 + n) / (10 + n)), from the weights after the first step on."""
    mean = dict(recorded[0])
    for n, later in enumerate(recorded[1:], start=1):
        d = min(DECAY, (1 + n) / (10 + n))
        mean = {name: d * value + (1 - d) * later[name] for name, value in mean.items()}
    return mean


def assert_close(ours, expected):
    ours = weights(ours) if isinstance(ours, nn.Module) else {name: ours[name].double() for name in expected}
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7)


def fit(module, decay=DECAY, batches=10, ckpt_path=None, callbacks=(), **settings):
    """Train on batches of 8, with validations of two batches if ``val_check_interval`` is given."""
    ema = EMA(decay)
    usual = {**BARE, "enable_checkpointing": bool(callbacks), "default_root_dir": ".", "num_sanity_val_steps": 0}
    trainer = lightning.Trainer(callbacks=[ema, *callbacks], **{**usual, **settings})
    loader = DataLoader(torch.randn(8 * batches, 4), batch_size=8)
    held_out = DataLoader(torch.randn(2, 4)) if "val_check_interval" in settings else None
    trainer.fit(module, loader, held_out, ckpt_path=ckpt_path)
    return ema, trainer


def test_model_holds_the_average_after_the_training():
    module = Net()
    fit(module, max_epochs=1, accumulate_grad_batches=3)
    assert module.steps == [0, 0, 1, 1, 1, 2, 2, 2, 3, 4]
    assert_close(module, average([module.weights[i] for i in (2, 5, 8, 9)]))
    module = Net()
    fit(module, max_steps=12, batches=5)
    assert len(module.weights) == 12
    assert_close(module, average(module.weights))
    assert (module.layers[0].weight - module.weights[-1]["layers.0.weight"]).abs().max() > 1e-3
    assert (module.seen, module.layers[1].num_batches_tracked) == (12 * 8, 12), "buffers are copied"


def test_no_decay_does_nothing():
    module = Net()
    ema, trainer = fit(module, decay=None, max_steps=6, val_check_interval=3)
    assert_close(module, module.weights[-1])
    assert_close(module.validated[-1][2], module.weights[5])
    trainer.save_checkpoint("a.ckpt")
    assert "current_model_state" not in torch.load("a.ckpt", weights_only=True)
    assert not ema.should_update(step_idx=0)


def test_validation_uses_the_average_and_does_not_change_the_weights():
    module = Net()
    whole = copy.deepcopy(module)
    torch.manual_seed(0)
    fit(module, max_steps=9, val_check_interval=3)
    assert len(module.validated) == 6
    for i, (_, _, used) in enumerate(module.validated[::2]):  # there are two batches
        assert_close(used, average(module.weights[: 3 * (i + 1)]))
    torch.manual_seed(0)
    fit(whole, max_steps=9)
    assert_close(module.weights[-1], whole.weights[-1])


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_checkpoint_holds_the_average_for_an_evaluation_and_the_weights_for_a_resume(verb):
    module = Net()
    _, trainer = fit(module, max_steps=6, callbacks=[LastAndBest(every_n_steps=4)])
    checkpoint = torch.load(LAST, weights_only=True)
    assert_close(checkpoint["state_dict"], average(module.weights))
    assert_close(checkpoint["current_model_state"], module.weights[-1])
    assert checkpoint["averaging_state"]["n_averaged"] == 6
    for ckpt_path in (LAST, None):  # as in a notebook: trainer.fit(...), then trainer.test(ckpt_path=...)
        nn.init.constant_(module.layers[0].weight, 9.0)
        getattr(trainer, verb)(module, DataLoader(torch.randn(2, 4)), ckpt_path=ckpt_path, verbose=False)
        if ckpt_path:
            assert_close(module.validated[-1][2], average(module.weights))
    assert module.validated[-1][2]["layers.0.weight"].eq(9.0).all(), "without a checkpoint: the weights of the model"
    resumed = Net()
    fit(resumed, max_steps=10, ckpt_path=LAST)
    assert_close(resumed, average(module.weights + resumed.weights))


@pytest.mark.parametrize("every", [1, 2])
def test_average_is_updated_once_per_batch_with_two_optimizers(every):
    module = TwoOptimizers(every)
    ema, _ = fit(module, max_epochs=1, batches=6)
    assert module.steps[-1] == 2 * 6 // every
    assert_close(module, average(module.weights[every - 1 :: every]))
    assert ema._average_model.n_averaged == 6 // every


def test_model_fitted_in_closed_form_keeps_its_weights():
    """No optimizer steps, so the average is never updated and must not replace the weights."""

    class Closed(TwoOptimizers):
        def training_step(self, batch, batch_idx):
            nn.init.constant_(self.layers[0].weight, 3.0)

    module = Closed()
    ema, _ = fit(module, max_epochs=1, batches=2, val_check_interval=1.0)
    assert ema._average_model.n_averaged == 0
    assert module.layers[0].weight.eq(3.0).all()
    assert module.validated[-1][2]["layers.0.weight"].eq(3.0).all()


def test_validation_before_the_first_step_uses_the_current_buffers():
    """Such as a codebook that k-means sets in the first forward pass."""
    module = Net()
    fit(module, batches=4, max_epochs=1, accumulate_grad_batches=4, val_check_interval=2)
    assert [(step, seen) for step, seen, _ in module.validated[::2]] == [(0, 16), (1, 32)]
