"""Models from flat arguments."""

import dataclasses
import inspect

import torch

from vqlab.nn import ImageFormat
from vqlab.serialization import moved_argument


def build(cls, *parts, **arguments):
    """Return ``cls(*parts, ...)`` where settings such as ``betas``, ``disc_start`` and ``channels`` are given flat."""
    own, groups = {}, {}
    for name, value in arguments.items():
        group, _, inner = moved_argument(cls.__name__, name).partition(".")
        if inner and (name != group or isinstance(value, str)):
            groups.setdefault(group, {})[inner] = value
        else:
            own[name] = value
    for group, values in groups.items():
        default = inspect.signature(cls).parameters[group].default or getattr(
            own.get("tokenizer", parts[0] if parts else None), "images", ImageFormat()
        )
        own[group] = dataclasses.replace(default, **values)
    return cls(*parts, **own)


def assert_same_weights(model, other, rtol=1e-6, atol=1e-9):
    """Assert that two models have the same parameters."""
    for (name, value), expected in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=rtol, atol=atol, msg=name)
