"""Anneal against its definition in Python floats."""

import math

import pytest
import torch

from vqlab.nn import Anneal

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
def test_values_equal_the_definition_at_every_step(kind, start, end, total, warmup, hold):
    anneal = Anneal(start, end, total, warmup, hold, kind)
    values = [anneal.value(step).item() for step in range(60)]
    assert values == pytest.approx([expected(step, start, end, total, warmup, hold, kind) for step in range(60)])
    assert values[: warmup + 1] == pytest.approx([start] * (warmup + 1), rel=1e-7)
    assert values[total - hold :] == pytest.approx([end] * (60 - total + hold), rel=1e-7)
    moves = [b - a for a, b in zip(values[warmup : total - hold], values[warmup + 1 : total - hold + 1], strict=True)]
    assert all(move * (end - start) > 0 for move in moves) or start == end  # strictly monotone


@pytest.mark.parametrize("kind", KINDS)
def test_tensor_steps_and_integer_steps_give_identical_values(kind):
    anneal = Anneal(3.0, 0.2, total_steps=150_000, warmup_steps=100, kind=kind)
    steps = [0, 1, 101, 33_333, 149_999, 150_000, 10**9]
    values = torch.stack([anneal.value(step) for step in steps])
    assert values.dtype == torch.float32
    assert torch.equal(torch.stack([anneal.value(torch.tensor(step)) for step in steps]), values)
    assert torch.equal(anneal.value(torch.tensor(steps)), values)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_linear_and_cosine_schedules_may_cross_zero(kind):
    anneal = Anneal(-1.0, 1.0, 10, kind=kind)
    assert [anneal.value(step).item() for step in (0, 5, 10)] == pytest.approx([-1, 0, 1], abs=1e-6)
