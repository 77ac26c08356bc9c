"""Arguments that image DataModules refuse before they read data."""

import pytest

from tests.helpers.refusal import refused
from vqlab.data import MNIST, Digits, ImageArrays, ImageFolder, ImageShards, Photos


@pytest.mark.parametrize(
    ("source", "arguments", "line"),
    [
        (Digits, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        (Digits, {"value_range": "tanh"}, "value_range must be one of unit, signed, standardized, got 'tanh'"),
        (Digits, {"val_size": 1000, "test_size": 797}, "val_size + test_size must be below 1797, got 1797"),
        (Photos, {"image_size": 256}, "image_size must be in [1, 225], got 256"),
        (MNIST, {"val_size": 60_000}, "val_size must be in [1, 59999], got 60000"),
        (ImageArrays, {"path": "none.npz"}, "none.npz is not a file: set path=FILE"),
        (ImageFolder, {"path": "none"}, "none is not a folder: set path=FOLDER to a folder of images"),
        (ImageFolder, {"path": "none", "val_fraction": 0.0}, "val_fraction must be in (0, 1), got 0.0"),
        (ImageShards, {"path": "none"}, "none is not a folder: set path=FOLDER to a folder of shards"),
        (ImageShards, {"path": "none", "cache_gb": 0.0}, "cache_gb must be above 0, got 0.0"),
    ],
)
def test_bad_arguments_give_one_line(source, arguments, line):
    with refused(line):
        source(**arguments)
