"""How far a run is, told without torch from real checkpoints."""

from pathlib import Path

import pytest

from tests.helpers.checkpoints import write_checkpoint
from vqlab.experiments.run_state import State, read_json, state_of

LAST = Path("run/checkpoints/last.ckpt")


def save(step, **more):
    write_checkpoint(LAST, step, **more)


def config(max_steps):
    Path("run").mkdir(exist_ok=True)
    Path("run/config.yaml").write_text(f"trainer: {{max_steps: {max_steps}}}")


def test_states():
    folder = Path("run")
    assert state_of(folder) is State.NEW
    config(20)
    assert state_of(folder) is State.UNSAVED
    save(19)
    assert state_of(folder) is State.INTERRUPTED
    save(20)
    assert state_of(folder) is State.FINISHED, "killed between its last checkpoint and finished.json"
    for unbounded in (-1, "null"):
        config(unbounded)
        assert state_of(folder) is State.INTERRUPTED
    Path("run/config.yaml").write_text("trainer: {max_st")
    assert state_of(folder) is State.INTERRUPTED
    Path("run/finished.json").write_text("{}")
    assert state_of(folder) is State.FINISHED


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1', None])
def test_torn_json_is_empty(content):
    if content is not None:
        Path("x.json").write_text(content)
    assert read_json(Path("x.json")) == {}
