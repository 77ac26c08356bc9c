"""Each schedule against its closed form."""

import math

import pytest

from tests.helpers.refusal import refused
from vqlab.training.schedules import Schedule

WARM, TOTAL = 10, 110


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
def test_closed_form_after_the_warm_up(kind, closed_form):
    schedule = Schedule(kind, warmup_steps=WARM, total_steps=TOTAL, final_factor=0.1, decay_steps=30, gamma=0.5)
    for step in range(WARM):
        assert schedule.factor(step) == pytest.approx((step + 1) / WARM)
    for step in range(WARM, TOTAL + 50):
        assert schedule.factor(step) == pytest.approx(closed_form(step - WARM))
    assert schedule.factor(WARM - 1) == schedule.factor(WARM) == 1.0


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_total_steps_default_to_the_length_of_the_training(kind):
    free, fixed = Schedule(kind, warmup_steps=5), Schedule(kind, warmup_steps=5, total_steps=40)
    assert [free.factor(s, 40) for s in range(50)] == [fixed.factor(s, 1000) for s in range(50)]
    assert fixed.factor(40) == pytest.approx(0.0)
    assert free.factor(10**6) == 1.0, "no decay where the length is unknown"


def test_a_training_shorter_than_the_warm_up():
    assert [Schedule("cosine", warmup_steps=10).factor(s, 5) for s in (0, 4)] == [0.1, 0.5]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"kind": "cosin"}, "kind must be one of constant"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0, got -1"),
        ({"warmup_steps": 10, "total_steps": 10}, "warmup_steps must be less than total_steps, got 10 of 10"),
        ({"decay_steps": 0}, "decay_steps must be at least 1, got 0"),
        ({"gamma": 0.0}, "gamma must be above 0, got 0.0"),
        ({"gamma": math.nan}, "gamma must be above 0, got nan"),
        ({"kind": "cosine", "final_factor": -0.1}, "final_factor must be in [0, 1], got -0.1"),
        ({"kind": "linear", "final_factor": 2.0}, "final_factor must be in [0, 1], got 2.0"),
    ],
)
def test_arguments_out_of_range(settings, line):
    with refused(line):
        Schedule(**settings)
