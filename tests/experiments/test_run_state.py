"""How far a run is, told without torch from real checkpoints and from damaged ones."""

import pickle
from pathlib import Path

import pytest
import torch

from vqlab.experiments.run_state import Blank, Outline, State, checkpoint_step, read_json, state_of

LAST = Path("run/checkpoints/last.ckpt")


class Armed:
    """Would write a file if it were unpickled for real."""

    def __reduce__(self):
        return (Path.touch, (Path("fired"),))


def save(step, **more):
    LAST.parent.mkdir(parents=True, exist_ok=True)
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    adam = torch.optim.Adam(net.parameters())
    net(torch.randn(4, 3)).sum().backward()
    adam.step()
    state = {"state_dict": net.state_dict(), "optimizer_states": [adam.state_dict()], "rng": torch.get_rng_state()}
    torch.save({"epoch": 0, "global_step": step, **state, **more}, LAST)


def config(max_steps):
    Path("run").mkdir(exist_ok=True)
    Path("run/config.yaml").write_text(f"trainer: {{max_steps: {max_steps}}}")


def test_the_step_is_read_and_nothing_in_the_file_is_run():
    save(1234, hyper_parameters={"armed": Armed(), "path": Path("x"), "shape": torch.Size([1])})
    assert checkpoint_step(LAST) == 1234
    assert not Path("fired").exists()


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.95])
def test_a_torn_checkpoint_has_no_step(kept):
    save(5)
    content = LAST.read_bytes()
    LAST.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    assert checkpoint_step(LAST) == -1
    assert checkpoint_step(Path("nothing.ckpt")) == -1


def test_stand_ins_take_whatever_a_pickle_does():
    class List(list): ...

    class Slots:
        __slots__ = ("a",)

    slots = Slots()
    slots.a = 3
    for value in (List([1, 2]), slots, torch.float32, {1, 2}, frozenset([3]), complex(1, 2)):
        for protocol in (2, 5):
            try:
                content = pickle.dumps({"global_step": 7, "x": value}, protocol)
            except (pickle.PicklingError, AttributeError):  # a class of this function
                continue
            import io

            assert Outline(io.BytesIO(content)).load()["global_step"] == 7
    assert Blank(1, a=2) == {}


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
