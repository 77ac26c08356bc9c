"""Each schedule against its closed form."""

import math

import pytest

from vqlab.errors import UserError
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


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_the_length_of_the_training_is_used_where_total_steps_is_not_set(kind):
    free, fixed = Schedule(kind, warmup_steps=5), Schedule(kind, warmup_steps=5, total_steps=40)
    assert [free.factor(s, 40) for s in range(50)] == [fixed.factor(s, 1000) for s in range(50)]
    assert fixed.factor(40) == pytest.approx(0.0)
    assert free.factor(10**6) == 1.0, "no decay where the length is not known"


def test_there_is_no_jump_between_warm_up_and_decay():
    for kind in ("constant", "cosine", "linear", "step", "exponential"):
        schedule = Schedule(kind, warmup_steps=10, total_steps=1000)
        assert schedule.factor(9) == 1.0
        assert schedule.factor(10) == 1.0


def test_a_training_that_is_shorter_than_the_warm_up():
    assert [Schedule("cosine", warmup_steps=10).factor(s, 5) for s in (0, 4)] == [0.1, 0.5]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"kind": "cosin"}, "schedule.kind"),
        ({"warmup_steps": -1}, "schedule.warmup_steps"),
        ({"warmup_steps": 10, "total_steps": 10}, "schedule.warmup_steps"),
        ({"decay_steps": 0}, "schedule.decay_steps"),
        ({"gamma": 0.0}, "schedule.gamma"),
        ({"gamma": math.nan}, "schedule.gamma"),
        ({"kind": "cosine", "final_factor": -0.1}, "schedule.final_factor"),
        ({"kind": "linear", "final_factor": 2.0}, "schedule.final_factor"),
    ],
)
def test_errors_name_the_setting(settings, named):
    with pytest.raises(UserError, match=named) as error:
        Schedule(**settings)
    assert "\n" not in str(error.value)
