"""Anneal against its definition, evaluated in Python's floats."""

import dataclasses
import math

import pytest
import torch

from tests.helpers.refusal import refused
from vqlab.nn.anneal import Anneal

KINDS = ["cosine", "linear", "exponential"]


def expected(step, start, end, total, warmup, hold, kind):
    if step <= warmup:
        return start
    if step >= total - hold:
        return end
    t = (step - warmup) / (total - warmup - hold)
    if kind == "cosine":
        return end + (start - end) * math.cos(math.pi * t / 2) ** 2
    if kind == "linear":
        return (1 - t) * start + t * end
    return math.exp((1 - t) * math.log(start) + t * math.log(end))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("start", "end"), [(1.0, 1 / 16), (0.1, 5.0), (2.0, 2.0)])
@pytest.mark.parametrize(("total", "warmup", "hold"), [(40, 0, 0), (40, 7, 0), (40, 0, 9), (40, 7, 9), (40, 20, 19)])
def test_every_step(kind, start, end, total, warmup, hold):
    anneal = Anneal(start, end, total, warmup, hold, kind)
    values = [anneal.value(step).item() for step in range(60)]
    assert values == pytest.approx([expected(step, start, end, total, warmup, hold, kind) for step in range(60)])
    assert values[: warmup + 1] == pytest.approx([start] * (warmup + 1), rel=1e-7)
    assert values[total - hold :] == pytest.approx([end] * (60 - total + hold), rel=1e-7)
    moves = [b - a for a, b in zip(values[warmup : total - hold], values[warmup + 1 : total - hold + 1], strict=True)]
    assert all(move * (end - start) > 0 for move in moves) or start == end  # strictly towards the end


@pytest.mark.parametrize("kind", KINDS)
def test_tensor_steps_give_the_bits_of_integer_steps(kind):
    anneal = Anneal(3.0, 0.2, total_steps=150_000, warmup_steps=100, kind=kind)
    steps = [0, 1, 101, 33_333, 149_999, 150_000, 10**9]
    for step in steps:
        value = anneal.value(torch.tensor(step))
        assert value.shape == ()
        assert value.dtype == torch.float32
        assert torch.equal(value, anneal.value(step))
    assert torch.equal(anneal.value(torch.tensor(steps)), torch.stack([anneal.value(step) for step in steps]))


def test_halfway_points_tell_the_kinds_apart():
    cosine, linear, exponential = (Anneal(1.0, 0.01, 100, kind=kind) for kind in KINDS)
    assert linear.value(50).item() == pytest.approx(0.505)
    assert exponential.value(50).item() == pytest.approx(0.1)
    assert cosine.value(50).item() == pytest.approx(0.505)
    assert cosine.value(25) > linear.value(25) > exponential.value(25)
    assert cosine.value(75) < linear.value(75)


def test_one_step_between_is_enough():
    anneal = Anneal(1.0, 0.0, total_steps=5, warmup_steps=2, hold_steps=2, kind="linear")
    assert [anneal.value(step).item() for step in range(6)] == [1, 1, 1, 0, 0, 0]
    assert Anneal(1.0, 0.0, total_steps=1).value(0) == 1


def test_linear_and_cosine_may_reach_and_cross_zero():
    for kind in ("linear", "cosine"):
        anneal = Anneal(-1.0, 1.0, 10, kind=kind)
        assert [anneal.value(step).item() for step in (0, 10)] == [-1, 1]
        assert anneal.value(5).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "cubic"}, ("kind", "cosine, linear or exponential", "'cubic'")),
        ({"total_steps": 0}, ("total_steps 0", "set total_steps higher")),
        ({"warmup_steps": 10}, ("warmup_steps 10", "set total_steps higher")),
        ({"hold_steps": 10}, ("hold_steps 10", "set total_steps higher")),
        ({"warmup_steps": 6, "hold_steps": 4}, ("warmup_steps 6 and hold_steps 4", "total_steps 10")),
        ({"warmup_steps": -1}, ("warmup_steps -1", "must not be negative")),
        ({"hold_steps": -1}, ("hold_steps -1", "must not be negative")),
        ({"start": math.nan}, ("start and end must be finite", "nan")),
        ({"end": math.inf}, ("start and end must be finite", "inf")),
        ({"end": 0.0, "kind": "exponential"}, ("above 0", "0.0", "set kind=linear")),
        ({"start": -1.0, "kind": "exponential"}, ("above 0", "-1.0", "set kind=linear")),
    ],
)
def test_refusals(change, words):
    with refused(*words):
        Anneal(**{"start": 1.0, "end": 0.5, "total_steps": 10, **change})


def test_limits_that_are_allowed():
    Anneal(1.0, 0.5, total_steps=10, warmup_steps=5, hold_steps=4)
    Anneal(1e-9, 1.0, total_steps=10, kind="exponential")
    Anneal(1.0, 0.0, total_steps=10, kind="cosine")


def test_it_cannot_be_changed():
    anneal = Anneal(1.0, 0.5, 10)
    with pytest.raises(dataclasses.FrozenInstanceError):
        anneal.start = 2.0
