"""Plain values of valid, damaged and hostile checkpoints, read without torch."""

import pickle
from pathlib import Path

import pytest
import torch

from tests.helpers.checkpoints import write_checkpoint
from vqlab.errors import UserError
from vqlab.experiments.checkpoint_header import Weight, checkpoint_step, read_header

LAST = Path("run/checkpoints/last.ckpt")


class Armed:
    """Writes a file if it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("fired"),))


def test_plain_values_and_sizes_of_tensors():
    net = {"weight": torch.zeros(3, 4), "steps": torch.tensor(7), "half": torch.zeros(2, dtype=torch.bfloat16).t()}
    plain = {"lr": 1e-3, "levels": [8, 5], "spec": {"class_path": "a.B", "init_args": {}}, "none": None, "on": True}
    objects = {"size": torch.Size([1]), "type": torch.float32, "set": {1, 2}, "number": complex(1, 2), "bytes": b"\xff"}
    write_checkpoint(LAST, 3, state_dict=net, hyper_parameters=plain, objects=objects, keys={torch.device("cpu"): 1})
    torch.load(LAST, weights_only=True)
    header = read_header(LAST)
    assert {name: weight.size for name, weight in header["state_dict"].items()} == {"weight": 12, "steps": 1, "half": 2}
    assert all(type(weight) is Weight for weight in header["state_dict"].values())
    assert header["hyper_parameters"] == plain
    assert checkpoint_step(LAST) == 3


@pytest.mark.parametrize("kept", [0, 0.01, 0.95])
def test_truncated_checkpoint_is_refused_and_has_no_step(kept):
    write_checkpoint(LAST, 5)
    content = LAST.read_bytes()
    LAST.write_bytes(content[: int(kept * len(content))])
    assert checkpoint_step(LAST) == checkpoint_step(Path("nothing.ckpt")) == -1
    with pytest.raises(UserError, match="is damaged or no checkpoint"):
        read_header(LAST)


def test_pickled_objects_are_refused_and_not_run():
    write_checkpoint(LAST, 1, hyper_parameters={"armed": Armed()})
    with pytest.raises(UserError, match="holds Python objects that vqlab refuses to unpickle"):
        read_header(LAST)
    LAST.write_bytes(pickle.dumps(Armed()))
    with pytest.raises(UserError, match=r"last\.ckpt is damaged or no checkpoint"):
        read_header(LAST)
    assert not Path("fired").exists()


@pytest.mark.parametrize("content", [[1], {"layer.weight": torch.zeros(3)}, {"state_dict": 1}])
def test_torch_file_without_state_dict_is_refused(content):
    torch.save(content, "x.ckpt")
    with pytest.raises(UserError, match="is not a Lightning checkpoint"):
        read_header("x.ckpt")
