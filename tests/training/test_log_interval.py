"""When a line of the log is due."""

from types import SimpleNamespace

import pytest

from vqlab.training.log_interval import is_log_step


@pytest.mark.parametrize(("interval", "due"), [(0, []), (1, [1, 2, 3, 4, 5, 6]), (3, [3, 6])])
def test_every_so_many_steps_and_never_at_0(interval, due):
    loop = SimpleNamespace(_should_accumulate=lambda: False)
    trainer = SimpleNamespace(log_every_n_steps=interval, fit_loop=loop)
    assert [step for step in range(1, 7) if is_log_step(trainer, step)] == due
