"""The average of the weights against one that is computed in float64."""

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.helpers.bare import BARE
from vqlab.callbacks.checkpoints import LastAndBest
from vqlab.callbacks.ema import EMA

DECAY = 0.4  # the warm-up reaches it at the fifth update after the first


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.validated_with = []

    def training_step(self, batch, batch_idx):
        self.seen += len(batch)
        return self.layers(batch).square().mean()

    def validation_step(self, batch, batch_idx):
        self.validated_with.append(weights(self))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05)


class TwoOptimizers(Net):
    """As a GAN steps: two optimizers per batch, by hand, so that global_step rises by two."""

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


class Record(lightning.Callback):
    """The weights after every batch, and whether an optimizer has stepped by then."""

    def __init__(self):
        self.weights, self.steps = [], []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.weights.append(weights(pl_module))
        self.steps.append(trainer.global_step)


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
    ours = weights(ours) if isinstance(ours, nn.Module) else ours
    assert expected.keys() <= ours.keys()
    for name, value in expected.items():
        torch.testing.assert_close(ours[name].double(), value, rtol=1e-5, atol=1e-7, msg=name)


def fit(module, decay=DECAY, batches=10, val=False, ckpt_path=None, callbacks=(), **settings):
    record, ema = Record(), EMA(decay)
    settings = {**BARE, "enable_checkpointing": bool(callbacks), "default_root_dir": ".", **settings}
    trainer = lightning.Trainer(callbacks=[record, ema, *callbacks], **settings)
    loader = DataLoader(torch.randn(8 * batches, 4), batch_size=8)
    trainer.fit(module, loader, DataLoader(torch.randn(2, 4)) if val else None, ckpt_path=ckpt_path)
    return record, ema, trainer


def test_the_average_is_what_the_training_leaves_behind():
    module = Net()
    record, _, _ = fit(module, max_epochs=1, accumulate_grad_batches=3)
    assert record.steps == [0, 0, 1, 1, 1, 2, 2, 2, 3, 4]
    assert_close(module, average([record.weights[i] for i in (2, 5, 8, 9)]))
    module = Net()
    record, _, _ = fit(module, max_steps=12, batches=5)
    assert len(record.weights) == 12
    assert_close(module, average(record.weights))
    assert (module.layers[0].weight - record.weights[-1]["layers.0.weight"]).abs().max() > 1e-3
    assert (module.seen, module.layers[1].num_batches_tracked) == (12 * 8, 12), "buffers are copied"


def test_no_decay_does_nothing():
    module = Net()
    record, ema, trainer = fit(module, decay=None, max_steps=6, val=True, val_check_interval=3)
    assert_close(module, record.weights[-1])
    assert_close(module.validated_with[-1], record.weights[5])
    trainer.save_checkpoint("a.ckpt")
    assert "current_model_state" not in torch.load("a.ckpt", weights_only=True)
    assert not ema.should_update(step_idx=0)


def test_validation_uses_the_average_and_gives_the_weights_back():
    module = Net()
    record, _, _ = fit(module, max_steps=9, val=True, val_check_interval=3, num_sanity_val_steps=0)
    for i, used in enumerate(module.validated_with[::2]):  # there are two batches
        assert_close(used, average(record.weights[: 3 * (i + 1)]))
    assert len(module.validated_with) == 6
    torch.manual_seed(0)
    whole = fit(Net(), max_steps=9)[0]
    torch.manual_seed(0)
    validated = fit(Net(), max_steps=9, val=True, val_check_interval=2, num_sanity_val_steps=0)[0]
    assert_close(validated.weights[-1], whole.weights[-1])


def test_a_checkpoint_holds_the_average_and_the_training_goes_on_from_the_weights():
    module = Net()
    record, _, _ = fit(module, max_steps=6, callbacks=[LastAndBest(every_n_steps=4)])
    first = torch.load("checkpoints/last.ckpt", weights_only=True)
    assert_close(first["state_dict"], average(record.weights))
    assert_close(first["current_model_state"], record.weights[-1])
    assert first["averaging_state"]["n_averaged"] == 6
    resumed = Net()
    later, _, _ = fit(resumed, max_steps=10, ckpt_path="checkpoints/last.ckpt")
    assert_close(resumed, average(record.weights + later.weights))


@pytest.mark.parametrize("every", [1, 2])
def test_batches_are_counted_and_not_the_steps_of_two_optimizers(every):
    module = TwoOptimizers(every)
    record, ema, _ = fit(module, max_epochs=1, batches=6)
    assert record.steps[-1] == 2 * 6 // every
    assert_close(module, average(record.weights[every - 1 :: every]))
    assert ema._average_model.n_averaged == 6 // every


def test_nothing_is_copied_that_was_never_averaged():
    """No optimizer ever steps, but the weights change, as in a model that is fitted in closed form."""

    class Closed(TwoOptimizers):
        def training_step(self, batch, batch_idx):
            with torch.no_grad():
                self.layers[0].weight.fill_(3.0)

    module = Closed()
    _, ema, _ = fit(module, max_epochs=1, batches=2, val=True)
    assert ema._average_model.n_averaged == 0
    assert module.layers[0].weight.eq(3.0).all()
    assert module.validated_with[-1]["layers.0.weight"].eq(3.0).all(), "validated with weights that are not the model's"


def test_a_validation_before_the_first_step_sees_the_current_buffers():
    """As of a codebook that k-means sets in the first forward, before there is an average to copy it to."""
    seen = []

    class Watched(Net):
        def validation_step(self, batch, batch_idx):
            seen.append((self.global_step, int(self.seen)))

    settings = {"max_epochs": 1, "accumulate_grad_batches": 4, "val_check_interval": 2, "num_sanity_val_steps": 0}
    fit(Watched(), batches=4, val=True, **settings)
    assert seen[::2] == [(0, 16), (1, 32)]


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_a_checkpoint_is_evaluated_with_its_own_average_after_a_fit(verb):
    """trainer.fit(...) and then trainer.test(ckpt_path=...), as in a notebook."""

    class Tested(Net):
        def test_step(self, batch, batch_idx):
            self.validation_step(batch, batch_idx)

    module = Tested()
    record, _, trainer = fit(module, max_steps=6, callbacks=[LastAndBest(every_n_steps=100)])
    for ckpt_path in ("checkpoints/last.ckpt", None):
        with torch.no_grad():
            module.layers[0].weight.fill_(9.0)
        getattr(trainer, verb)(module, DataLoader(torch.randn(2, 4)), ckpt_path=ckpt_path, verbose=False)
        if ckpt_path:
            assert_close(module.validated_with[-1], average(record.weights))
    assert module.validated_with[-1]["layers.0.weight"].eq(9.0).all(), "other weights than the model's were evaluated"
