"""DataInit: the flag and its copy agree, whatever is done with the module."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from vqlab.quantizers.data_init import DataInit


def saved_and_loaded(flag):
    file = io.BytesIO()
    torch.save(flag.state_dict(), file)
    file.seek(0)
    other = DataInit(awaited=not flag.awaited)
    other.load_state_dict(torch.load(file, weights_only=True))
    return other


def within_a_model(flag):
    """Loaded as part of a larger module."""
    source, target = nn.Sequential(nn.Linear(1, 1), flag), nn.Sequential(nn.Linear(1, 1), DataInit(not flag.awaited))
    target.load_state_dict(source.state_dict())
    return target[1]


COPIES = {
    "state_dict": saved_and_loaded,
    "within_a_model": within_a_model,
    "deepcopy": copy.deepcopy,
    "pickle": lambda flag: pickle.loads(pickle.dumps(flag)),
}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("state", ["awaited", "not awaited", "done"])
def test_a_copy_knows_what_the_original_knew(make, state):
    flag = DataInit(awaited=state != "not awaited")
    if state == "done":
        flag.done()
    other = make(flag)
    assert other is not flag
    assert other.awaited == flag.awaited == (state == "awaited")
    assert bool(other.seen) == (state != "awaited")
    assert type(other.awaited) is bool


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_a_copy_is_done_by_itself_and_can_be_loaded_again(make):
    flag = DataInit()
    other = make(flag)
    other.done()
    assert flag.awaited
    assert not bool(flag.seen)
    assert not other.awaited
    assert bool(other.seen)
    other.load_state_dict(flag.state_dict())
    assert other.awaited
    flag.load_state_dict({"seen": torch.tensor(True)})
    assert not flag.awaited


def test_the_flag_is_the_only_state():
    flag = DataInit()
    assert list(flag.state_dict()) == ["seen"]
    assert flag.seen.dtype == torch.bool
    assert not list(flag.parameters())
