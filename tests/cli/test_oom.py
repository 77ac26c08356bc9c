"""Sizes that no memory holds, as the libraries say it."""

import numpy as np
import pytest
import torch

from vqlab.cli.oom import too_large


def raised(function):
    with pytest.raises((RuntimeError, MemoryError, OverflowError, TypeError, ValueError)) as caught:
        function()
    return caught.value


@pytest.mark.parametrize(
    "function",
    [
        lambda: torch.zeros(2**60),
        lambda: torch.zeros(2**62, 2**62),
        lambda: torch.zeros(10**30),
        lambda: np.zeros(2**60),
        lambda: np.arange(1e300),
        lambda: [None] * 2**60,
        lambda: [None] * 10**30,
        lambda: torch.nn.Linear(2**40, 2**40),
    ],
)
def test_what_is_too_large_is_said_in_one_line(function):
    error = too_large(raised(function), ["fit", "--model.lr=0.1", "--model.encoder.width=1000000000"])
    assert "lower --model.encoder.width=1000000000" in error.line
    assert "--model.lr" not in error.line
    assert "\n" not in str(error)


def test_without_a_large_number_the_usual_sizes_are_named():
    assert "lower --data.batch_size" in str(too_large(MemoryError(), ["fit"]))


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes cannot be multiplied"), KeyError("x"), ValueError("overflowed")]
)
def test_other_errors_are_not_explained_away(error):
    assert too_large(error, []) is None
