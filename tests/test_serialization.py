"""Conversion of objects to plain data and back, and classes that a checkpoint may not name."""

import copy
import dataclasses
import json
import os
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from vqlab.errors import UserError
from vqlab.nn import ConvEncoder, SmallDecoder, SmallEncoder, ValueRange
from vqlab.quantizers import FSQ, VectorQuantizer
from vqlab.serialization import ConfigMixin, current_config, find_class, from_config, to_config


class Holder(ConfigMixin, nn.Module):
    def __init__(self, parts, value_range=None, *, name="x", extra=None):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.value_range, self.name, self.extra = value_range, name, extra


class Open(VectorQuantizer):
    """A user's subclass that passes other arguments on."""

    def __init__(self, size=1.5, **kwargs):
        super().__init__(**kwargs)
        self.size = size


class Bare(ConfigMixin, nn.Module):
    """No constructor of its own."""


class Mixed(ConfigMixin, nn.Linear):
    """A layer of torch with recorded arguments."""


class Unrecorded(nn.Linear):
    pass


@dataclasses.dataclass
class Settings(ConfigMixin):
    rate: float = 0.1
    sizes: tuple = (1, 2)


@dataclasses.dataclass
class Plain:
    rate: float = 0.1


PARTS = [
    lambda: VectorQuantizer(13, 5, codebook_update="loss", revive_after=None),
    lambda: FSQ((7, 5)),
    lambda: ConvEncoder(1, 8, channel_multipliers=(1, 2), num_res_blocks=1, z_channels=5, attention=True),
    lambda: SmallDecoder(hidden_channels=6, out_activation=None),
    lambda: Open(2.5, num_embeddings=9, embedding_dim=3),
    Bare,
    lambda: Mixed(2, 3, bias=False),
    lambda: Holder(
        [FSQ([4, 4]), Holder([VectorQuantizer(3, 2)], name="inner")],
        ValueRange("standardized", (0.5, 0.4), (0.2, 0.3)),
        extra={"settings": [Settings(0.5, (3, 4)), None, True], "plain": {"a": (1, 2.5, "b")}},
    ),
]


@pytest.mark.parametrize("make", PARTS, ids=lambda make: type(make()).__name__)
def test_round_trip_through_json(make):
    module = make()
    spec = to_config(module)
    again = from_config(json.loads(json.dumps(spec)))
    assert type(again) is type(module)
    assert to_config(again) == spec
    again.load_state_dict(module.state_dict())
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert to_config(twin) == spec
        assert all(torch.equal(twin.state_dict()[name], value) for name, value in module.state_dict().items())


def test_defaults_and_keywords_are_recorded():
    recorded = {"in_channels": 1, "hidden_channels": 128, "res_channels": 32, "num_res_blocks": 2, "downsampling": 8}
    assert SmallEncoder(1, downsampling=8).init_args == recorded
    assert Open(num_embeddings=9).init_args == {"size": 1.5, "num_embeddings": 9}
    assert Bare().init_args == {}


def test_wrong_arguments_raise_the_constructors_error():
    with pytest.raises(TypeError, match="no_such"):
        SmallEncoder(no_such=1)
    with pytest.raises(TypeError, match="parts"):
        Holder()


def test_module_without_recorded_arguments_is_refused():
    spec = to_config(Holder([Unrecorded(2, 3)]))
    assert spec["init_args"]["parts"] == [{"class_path": f"{__name__}.Unrecorded"}]
    with pytest.raises(UserError, match=r"Unrecorded.*not recorded"):
        from_config(spec)


@pytest.mark.parametrize(
    "class_path",
    [
        "os.system",
        "builtins.eval",
        "torch.hub.load",
        "vqlab.serialization.importlib",
        "vqlab.serialization.from_config",
        "vqlab.errors.UserError",
        "no_such_module.Thing",
        "vqlab.no_such.Thing",
        "",
        "vqlab..Thing",
        "torch.nn.modules.linear.Linear",
        f"{__name__}.Unrecorded",
        f"{__name__}.Plain",
        "vqlab.serialization.nn.Linear",
        "vqlab.data.images.digits.Digits",
        None,
        ["os", "system"],
    ],
)
def test_other_classes_are_refused(class_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "system", lambda *args: calls.append(args))
    monkeypatch.setattr(subprocess.Popen, "__init__", lambda *args, **kwargs: calls.append(args))
    with pytest.raises(UserError, match="the checkpoint names"):
        from_config({"class_path": class_path, "init_args": {"command": "true", "args": "true"}})
    with pytest.raises(UserError, match="the checkpoint names"):
        from_config([{"class_path": f"{__name__}.Holder", "init_args": {"parts": [{"class_path": class_path}]}}])
    assert not calls


def test_checkpoint_imports_no_other_module():
    for name in ("antigravity", "this", "turtledemo.clock"):
        sys.modules.pop(name, None)
        with pytest.raises(UserError, match="import its module"):
            find_class(f"{name}.Thing")
        assert name not in sys.modules


def test_plain_values_are_unchanged():
    value = {"a": [1, {"b": None}], "c": "text"}
    assert from_config(value) == value
    assert to_config(value) == value
    assert to_config((1, (2, 3))) == [1, [2, 3]]


@pytest.mark.parametrize(
    ("name", "arguments", "warned"),
    [
        ("FontGAN", {"tv_weight": 0.1}, ["FontGAN.tv_weight=0.1 of version 0.1 has no effect any more"]),
        ("FontGAN", {"tv_weight": 0, "edge_weight": 0.0, "perceptual": None, "perceptual_weight": False}, []),
        ("JSA", {"blocks": "rows", "block_size": 2}, ["JSA.blocks=rows of version 0.1 has no effect any more"]),
        ("PosteriorSampler", {"blocks": "rows"}, ["PosteriorSampler.blocks=rows of version 0.1 has no effect any "
         "more"]),
    ],
)  # fmt: skip
def test_removed_argument_with_effect_gives_warning(name, arguments, warned):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        config = current_config({"class_path": f"vqlab.{name}", "init_args": {**arguments, "lr": 0.1}})
    assert [str(warning.message) for warning in found] == warned
    assert config["init_args"] == {"lr": 0.1}
