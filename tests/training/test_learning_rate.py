"""The rate of a training: absolute, scaled with the batch, scheduled, resumed."""

import logging
import math
from types import SimpleNamespace

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.helpers.bare import BARE
from tests.helpers.models import build
from vqlab.errors import UserError
from vqlab.models.vq.vqvae import VQVAE
from vqlab.nn.autoencoders.small import SmallDecoder, SmallEncoder
from vqlab.quantizers.vector import VectorQuantizer
from vqlab.training.learning_rate import check_lr, configured_rate, equivalent_lr, reset_moments
from vqlab.training.schedules import Schedule

IMAGES = 32


def model(**arguments):
    nets = SmallEncoder(1, 4, 2, 0), SmallDecoder(1, 4, 2, 0), VectorQuantizer(8, 2)
    return build(VQVAE, *nets, channels=1, image_size=8, **arguments)


def images(batch_size=4):
    """A plain DataLoader, as in a notebook: 8 batches of 4."""
    return DataLoader([{"image": torch.rand(1, 8, 8)} for _ in range(IMAGES)], batch_size=batch_size)


class Rates(lightning.Callback):
    """The rate of each optimizer step."""

    def __init__(self):
        self.used = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.used.append([group["lr"] for group in optimizer.param_groups])
        assert len(set(self.used[-1])) == 1
        self.used[-1] = self.used[-1][0]


def trainer(*callbacks, **settings):
    return lightning.Trainer(
        **BARE,
        callbacks=list(callbacks),
        **settings,
    )


def rates(module, loader, ckpt_path=None, save=None, **settings):
    seen = Rates()
    run = trainer(seen, **settings)
    run.fit(module, loader, ckpt_path=ckpt_path)
    if save:
        run.save_checkpoint(save)
    return seen.used, run


def test_equivalent_lr_is_the_rule_of_taming_transformers():
    for batch, devices, nodes, accumulate in [(3, 1, 1, 1), (12, 4, 2, 3)]:
        # main.py: model.learning_rate = accumulate_grad_batches * ngpu * bs * base_lr
        expected = accumulate * devices * nodes * batch * 4.5e-6
        got = equivalent_lr(None, 4.5e-6, 3e-4, batch, devices, nodes, accumulate)
        assert got == pytest.approx(expected)
    assert equivalent_lr(1e-3, None, 3e-4, 128, 4) == 1e-3
    assert equivalent_lr(None, None, 3e-4, 128, 4) == 3e-4


@pytest.mark.parametrize(("nodes", "world"), [(1, 1), (1, 4), (2, 8), (4, 4)])
def test_the_rate_of_several_nodes_counts_each_process_once(nodes, world):
    data = SimpleNamespace(batch_size=16)
    run = SimpleNamespace(datamodule=data, world_size=world, num_nodes=nodes, accumulate_grad_batches=3, loggers=[])
    rate = configured_rate(SimpleNamespace(trainer=run), None, 1e-6, 3e-4, "model")
    assert rate == pytest.approx(1e-6 * 16 * world * 3)


def test_both_rates_are_refused():
    with pytest.raises(UserError, match=r"lr=0\.001 and base_lr=1e-06 are both given"):
        check_lr(1e-3, 1e-6)
    with pytest.raises(UserError, match=r"lr=0\.001 and base_lr=1e-06 are both given"):
        model(lr=1e-3, base_lr=1e-6)


@pytest.mark.parametrize("value", [0.0, -1e-3, math.nan, math.inf])
@pytest.mark.parametrize("name", ["lr", "base_lr"])
def test_a_rate_must_be_positive(name, value):
    with pytest.raises(UserError, match=f"{name} must be above 0 or None"):
        model(**{name: value})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"betas": (1.0, 0.9)}, r"betas must be 2 numbers in \[0, 1\)"),
        ({"betas": (0.9, -0.1)}, r"betas must be 2 numbers in \[0, 1\)"),
        ({"betas": (math.nan, 0.9)}, r"betas must be 2 numbers in \[0, 1\)"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"weight_decay": math.nan}, "weight_decay must be at least 0"),
    ],
)
def test_what_adam_cannot_take_is_refused(settings, named):
    with pytest.raises(UserError, match=named):
        rates(model(lr=1e-3, **settings), images(), max_steps=1)


def test_base_lr_is_scaled_with_batch_and_accumulation(caplog):
    caplog.set_level(logging.INFO)
    used, _ = rates(model(base_lr=1e-5), images(4), max_steps=3, accumulate_grad_batches=2)
    assert used == pytest.approx([1e-5 * 4 * 2] * 3)
    assert "equivalent lr 8.000e-05 = base_lr 1e-05 x batch 4" in caplog.text


def test_base_lr_takes_the_batch_size_of_a_datamodule():
    class Data(lightning.LightningDataModule):
        batch_size = 16

        def train_dataloader(self):
            return images(self.batch_size)

    assert rates(model(base_lr=1e-5), Data(), max_steps=1)[0] == pytest.approx([16e-5])


def test_base_lr_without_a_batch_size_is_refused():
    loader = DataLoader([{"image": torch.rand(1, 8, 8)}] * 8, batch_sampler=[[0, 1], [2, 3]])
    with pytest.raises(UserError, match=r"base_lr.*set lr"):
        rates(model(base_lr=1e-5), loader, max_steps=1)
    assert rates(model(lr=2e-3), loader, max_steps=1)[0] == [2e-3]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"max_epochs": 2}, 16),
        ({"max_epochs": 2, "accumulate_grad_batches": 3}, 6),  # 8 batches are 2 steps of 3 and one of 2
        ({"max_steps": 11}, 11),
        ({"max_steps": 11, "max_epochs": 1}, 8),
        ({"max_steps": 11, "max_epochs": -1}, 11),
        ({"max_epochs": 2, "limit_train_batches": 5}, 10),
    ],
)
def test_cosine_ends_with_the_training(settings, steps):
    used, run = rates(model(lr=1.0e-3, schedule=Schedule("cosine")), images(), **settings)
    assert used == pytest.approx([1e-3 * (1 + math.cos(math.pi * s / steps)) / 2 for s in range(steps)])
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0)


def test_warm_up_counts_optimizer_steps():
    module = model(lr=1.0e-3, schedule=Schedule(warmup_steps=4))
    used, _ = rates(module, images(), max_steps=6, accumulate_grad_batches=2)
    assert used == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3, 1e-3])


@pytest.mark.parametrize("kind", ["constant", "cosine"])
def test_a_resumed_run_follows_the_configured_rate(kind, caplog):
    """8 of 20 steps at 1e-3, then the rest at the rate that is configured now."""
    caplog.set_level(logging.INFO)
    schedule = Schedule(kind, total_steps=20)
    rates(model(lr=1e-3, schedule=schedule), images(), save="half.ckpt", max_steps=8)
    for lr in (1e-3, 4e-4):
        caplog.clear()
        used, _ = rates(model(lr=lr, schedule=schedule), images(), ckpt_path="half.ckpt", max_steps=12)
        assert used == pytest.approx([lr * schedule.factor(step) for step in range(8, 12)])
        assert ("4.000e-04 now; the new value wins" in caplog.text) == (lr == 4e-4)


def test_a_resumed_cosine_ends_with_the_longer_training():
    schedule = Schedule("cosine")
    rates(model(lr=1e-3, schedule=schedule), images(), save="half.ckpt", max_epochs=1)
    used, run = rates(model(lr=1e-3, schedule=schedule), images(), ckpt_path="half.ckpt", max_epochs=3)
    # The rate of the first step was computed, and stored, before the training became longer.
    assert used[1:] == pytest.approx([1e-3 * schedule.factor(step, 24) for step in range(9, 24)])
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0)


def test_weight_decay_leaves_the_codebook_alone():
    module = build(
        VQVAE, quantizer=VectorQuantizer(8, 2, codebook_update="loss"), weight_decay=0.1, image_size=8, channels=3
    )
    loader = DataLoader([{"image": torch.rand(3, 8, 8)}] * 2)
    _, run = rates(module, loader, max_steps=1)
    decays = {id(p): group["weight_decay"] for group in run.optimizers[0].param_groups for p in group["params"]}
    assert decays[id(module.quantizer.codebook)] == 0.0
    assert decays[id(module.to_code.weight)] == 0.1
    assert decays.keys() == {id(p) for p in module.parameters()}


def test_reset_moments_zeroes_the_given_rows_alone():
    table, other = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(5, 3))
    optimizer = torch.optim.Adam([table, other])
    (table.square().sum() + other.square().sum()).backward()
    optimizer.step()
    before = {name: optimizer.state[table][name].clone() for name in ("exp_avg", "exp_avg_sq")}
    kept = {name: value.clone() for name, value in optimizer.state[other].items()}
    rows = torch.tensor([False, True, False, True, False])
    reset_moments(optimizer, table, rows)
    for name, value in before.items():
        now = optimizer.state[table][name]
        assert now[rows].eq(0).all()
        assert now[~rows].ne(0).all()
        assert torch.equal(now[~rows], value[~rows])
    assert optimizer.state[table]["step"] == 1
    assert all(torch.equal(value, optimizer.state[other][name]) for name, value in kept.items())


def test_reset_moments_before_the_first_step():
    table = nn.Parameter(torch.randn(5, 3))
    optimizer = torch.optim.Adam([table])
    reset_moments(optimizer, table, torch.ones(5, dtype=torch.bool))
    assert table not in optimizer.state
