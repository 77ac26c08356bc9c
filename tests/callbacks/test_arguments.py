"""Arguments of callbacks that are out of range are refused in one line."""

import math

import pytest

from tests.helpers.refusal import refused
from vqlab.callbacks import EMA, Health, LastAndBest, Plateau, SampleGrid

REFUSED = [
    (LastAndBest, {"every_n_steps": 0}, "every_n_steps must be at least 1, got 0"),
    (LastAndBest, {"mode": "mean"}, "mode must be one of min, max, got 'mean'"),
    (EMA, {"decay": math.nan}, "decay must be in (0, 1)"),
    (Plateau, {"patience": 0}, "patience must be at least 1"),
    (Plateau, {"floor": 0.0}, "floor must be in (0, 1), got 0.0"),
    (SampleGrid, {"num_images": 0}, "num_images must be at least 1, got 0"),
    (Health, {"min_usage": -0.1}, "min_usage must be in [0, 1], got -0.1"),
    (Health, {"stop": ["bad_luck"]}, "stop lists unknown events (bad_luck): choose from blur, "),
]


@pytest.mark.parametrize(("callback", "arguments", "line"), REFUSED)
def test_arguments_out_of_range(callback, arguments, line):
    with refused(line):
        callback(**arguments)
