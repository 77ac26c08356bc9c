"""Learning rates: absolute, scaled with the batch, scheduled, resumed."""

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
from tests.helpers.refusal import refused
from vqlab.models import VQVAE
from vqlab.nn import SmallDecoder, SmallEncoder
from vqlab.quantizers import VectorQuantizer
from vqlab.training.learning_rate import Schedule, configured_rate, reset_moments
from vqlab.training.lightning_fixes import is_log_step


@pytest.mark.parametrize(
    ("kind", "closed_form"),
    [
        ("constant", lambda t: 1.0),
        ("cosine", lambda t: 0.1 + 0.9 * math.cos(math.pi * min(t, 100) / 200) ** 2),
        ("linear", lambda t: 1 - 0.9 * min(t, 100) / 100),
        ("step", lambda t: max(0.1, 0.5 ** math.floor(t / 30))),
        ("exponential", lambda t: max(0.1, 2.0 ** (-t / 30))),
    ],
)
def test_schedule_equals_closed_form_after_warm_up(kind, closed_form):
    schedule = Schedule(kind, warmup_steps=10, total_steps=110, final_factor=0.1, decay_steps=30, gamma=0.5)
    for step in range(160):
        expected = (step + 1) / 10 if step < 10 else closed_form(step - 10)
        assert schedule.factor(step) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_decay_starts_at_its_part_of_the_steps_after_warm_up(kind):
    late = Schedule(kind, warmup_steps=10, total_steps=110, decay_start=0.7, final_factor=0.1)
    short = Schedule(kind, total_steps=30, final_factor=0.1)
    for step in range(160):
        expected = (step + 1) / 10 if step < 10 else short.factor(max(0, step - 80))
        assert late.factor(step) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_total_steps_default_to_training_length(kind):
    free, fixed = Schedule(kind, warmup_steps=5), Schedule(kind, warmup_steps=5, total_steps=40)
    assert [free.factor(s, 40) for s in range(50)] == [fixed.factor(s, 1000) for s in range(50)]
    assert free.factor(10**6) == 1.0, "no decay where the length is unknown"
    assert [Schedule(kind, warmup_steps=10).factor(s, 5) for s in (0, 4)] == [0.1, 0.5]


def model(**arguments):
    nets = SmallEncoder(1, 4, 2, 0), SmallDecoder(1, 4, 2, 0), VectorQuantizer(8, 2)
    return build(VQVAE, *nets, channels=1, image_size=8, **arguments)


def images(batch_size=4):
    return DataLoader([{"image": torch.rand(1, 8, 8)} for _ in range(32)], batch_size=batch_size)


def rates(module, loader, ckpt_path=None, save=None, **settings):
    """Train, and return the learning rate of each optimizer step and the Trainer."""
    used = []

    class Rates(lightning.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            (rate,) = {group["lr"] for group in optimizer.param_groups}
            used.append(rate)

    trainer = lightning.Trainer(**BARE, callbacks=[Rates()], **settings)
    trainer.fit(module, loader, ckpt_path=ckpt_path)
    if save:
        trainer.save_checkpoint(save)
    return used, trainer


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: model(lr=0.0), "lr must be above 0 or None"),
        (lambda: model(base_lr=math.nan), "base_lr must be above 0 or None"),
        (lambda: model(betas=(1.0, 0.9)), "betas must be 2 numbers in [0, 1)"),
        (lambda: model(weight_decay=-1.0), "weight_decay must be at least 0"),
        (lambda: Schedule("cosin"), "kind must be one of constant"),
        (lambda: Schedule(warmup_steps=10, total_steps=10), "warmup_steps must be less than total_steps, got 10 of 10"),
        (lambda: Schedule(gamma=0.0), "gamma must be above 0, got 0.0"),
        (lambda: Schedule("linear", decay_start=1.0), "decay_start must be in [0, 1), got 1.0"),
        (lambda: Schedule("linear", final_factor=2.0), "final_factor must be in [0, 1], got 2.0"),
    ],
)
def test_values_out_of_range_are_refused(build, words):
    with refused(words):
        build()


@pytest.mark.parametrize(("nodes", "world"), [(1, 1), (1, 4), (2, 8), (4, 4)])
def test_base_lr_is_scaled_as_taming_transformers_does(nodes, world):
    data = SimpleNamespace(batch_size=16)
    run = SimpleNamespace(datamodule=data, world_size=world, num_nodes=nodes, accumulate_grad_batches=3, loggers=[])
    module = SimpleNamespace(trainer=run)
    # main.py: model.learning_rate = accumulate_grad_batches * ngpu * bs * base_lr
    assert configured_rate(module, None, 1e-6, 3e-4, "model") == pytest.approx(3 * world * 16 * 1e-6)
    assert configured_rate(module, 1e-3, None, 3e-4, "model") == 1e-3
    assert configured_rate(module, None, None, 3e-4, "model") == 3e-4


def test_base_lr_is_scaled_and_printed(caplog):
    caplog.set_level(logging.INFO)
    module = model(base_lr=1e-5, schedule=Schedule(warmup_steps=2))  # in optimizer steps
    used, _ = rates(module, images(4), max_steps=3, accumulate_grad_batches=2)
    assert used == pytest.approx([1e-5 * 4 * 2 * factor for factor in (0.5, 1, 1)])
    assert "equivalent lr 8.000e-05 = base_lr 1e-05 x batch 4" in caplog.text
    loader = DataLoader([{"image": torch.rand(1, 8, 8)}] * 8, batch_sampler=[[0, 1], [2, 3]])
    with refused("base_lr needs data with a batch_size: set lr"):
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
def test_cosine_ends_with_training(settings, steps):
    used, trainer = rates(model(lr=1.0e-3, schedule=Schedule("cosine")), images(), **settings)
    assert used == pytest.approx([1e-3 * (1 + math.cos(math.pi * s / steps)) / 2 for s in range(steps)])
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0)


@pytest.mark.parametrize("kind", ["constant", "cosine"])
def test_resumed_run_uses_configured_rate(kind, caplog):
    caplog.set_level(logging.INFO)
    schedule = Schedule(kind, total_steps=20)
    rates(model(lr=1e-3, schedule=schedule), images(), save="half.ckpt", max_steps=8)
    for lr in (1e-3, 4e-4):
        caplog.clear()
        used, _ = rates(model(lr=lr, schedule=schedule), images(), ckpt_path="half.ckpt", max_steps=12)
        assert used == pytest.approx([lr * schedule.factor(step) for step in range(8, 12)])
        assert ("4.000e-04 now; the new value wins" in caplog.text) == (lr == 4e-4)


def test_resumed_cosine_ends_with_longer_training():
    schedule = Schedule("cosine")
    rates(model(lr=1e-3, schedule=schedule), images(), save="half.ckpt", max_epochs=1)
    used, trainer = rates(model(lr=1e-3, schedule=schedule), images(), ckpt_path="half.ckpt", max_epochs=3)
    # The rate of the first step was computed, and stored, before the training became longer.
    assert used[1:] == pytest.approx([1e-3 * schedule.factor(step, 24) for step in range(9, 24)])
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0)


def test_codebook_has_no_weight_decay():
    quantizer = VectorQuantizer(8, 2, codebook_update="loss")
    module = build(VQVAE, quantizer=quantizer, weight_decay=0.1, image_size=8, channels=3)
    _, trainer = rates(module, DataLoader([{"image": torch.rand(3, 8, 8)}] * 2), max_steps=1)
    decays = {id(p): group["weight_decay"] for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert decays[id(module.quantizer.codebook)] == 0.0
    assert decays[id(module.to_code.weight)] == 0.1
    assert decays.keys() == {id(p) for p in module.parameters()}


def test_reset_moments_zeroes_only_given_rows():
    table, other = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(5, 3))
    optimizer = torch.optim.Adam([table, other])
    rows = torch.tensor([False, True, False, True, False])
    reset_moments(optimizer, table, rows)
    assert table not in optimizer.state
    (table.square().sum() + other.square().sum()).backward()
    optimizer.step()
    before = {name: optimizer.state[table][name].clone() for name in ("exp_avg", "exp_avg_sq")}
    kept = {name: value.clone() for name, value in optimizer.state[other].items()}
    reset_moments(optimizer, table, rows)
    for name, value in before.items():
        now = optimizer.state[table][name]
        assert now[rows].eq(0).all()
        assert torch.equal(now[~rows], value[~rows])
    assert optimizer.state[table]["step"] == 1
    assert all(torch.equal(value, optimizer.state[other][name]) for name, value in kept.items())


@pytest.mark.parametrize(("interval", "due"), [(0, []), (1, [1, 2, 3, 4, 5, 6]), (3, [3, 6])])
def test_is_log_step_every_interval(interval, due):
    trainer = SimpleNamespace(log_every_n_steps=interval, fit_loop=SimpleNamespace(_should_accumulate=lambda: False))
    assert [step for step in range(1, 7) if is_log_step(trainer, step)] == due
