"""A checkpoint's plain values, read without torch from real files, damaged ones and armed ones."""

import io
import pickle
from pathlib import Path

import pytest
import torch

from tests.helpers.checkpoints import write_checkpoint
from vqlab.errors import UserError
from vqlab.experiments.checkpoint_header import Blank, Outline, Weight, checkpoint_step, read_header

LAST = Path("last.ckpt")


class Armed:
    """Would write a file if it were unpickled for real."""

    def __reduce__(self):
        return (Path.touch, (Path("fired"),))


def save(step, **more):
    write_checkpoint(LAST, step, **more)


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
            assert Outline(io.BytesIO(content)).load()["global_step"] == 7
    assert Blank(1, a=2) == {}


def test_values_are_counted_and_plain_data_is_kept():
    net = {"weight": torch.zeros(3, 4), "steps": torch.tensor(7), "half": torch.zeros(2, dtype=torch.bfloat16).t()}
    plain = {"lr": 1e-3, "levels": [8, 5], "spec": {"class_path": "a.B", "init_args": {}}, "none": None, "on": True}
    torch.save({"state_dict": net, "hyper_parameters": plain, "global_step": 3}, LAST)
    outline = read_header(LAST)
    assert {name: weight.size for name, weight in outline["state_dict"].items()} == {
        "weight": 12,
        "steps": 1,
        "half": 2,
    }
    assert all(type(weight) is Weight for weight in outline["state_dict"].values())
    assert outline["hyper_parameters"] == plain


def test_what_torch_would_refuse_is_refused_and_not_run():
    save(1, hyper_parameters={"armed": Armed()})
    with pytest.raises(UserError, match=r"last\.ckpt holds Python objects that vqlab refuses to unpickle \(.*pathlib"):
        read_header(LAST)
    LAST.write_bytes(pickle.dumps(Armed()))
    with pytest.raises(UserError, match=r"last\.ckpt is damaged or no checkpoint"):
        read_header(LAST)
    assert not Path("fired").exists()


@pytest.mark.parametrize("content", [torch.zeros(3), [1], {"layer.weight": torch.zeros(3)}, {"state_dict": 1}])
def test_what_is_no_lightning_checkpoint(content):
    torch.save(content, LAST)
    with pytest.raises(UserError, match="is not a Lightning checkpoint"):
        read_header(LAST)


def test_damaged_bytes_give_one_line_or_the_values():
    save(5)
    whole = LAST.read_bytes()
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for trial in range(60):
        damaged = bytearray(whole)
        for place in torch.randint(0, len(whole), (1 + trial,), generator=generator).tolist():
            damaged[place] ^= 1 << (trial % 8)
        LAST.write_bytes(damaged)
        try:
            read_header(LAST)
        except UserError as error:
            refused += "\n" not in str(error)
    assert refused > 30
