"""Classical coders against published figures, theory and exhaustive search."""

import itertools

import pytest
import torch

from tests.helpers.family import rand64
from vqlab.metrics.transform_coding import distribute, lloyd_max

# Squared errors of Lloyd and Max for a normal variable (Max 1960, table I)
MAX_1960 = {1: 1.0, 2: 0.3634, 4: 0.1175, 8: 0.03454, 16: 0.009497}


@pytest.mark.parametrize("number", MAX_1960)
def test_levels_of_normal_values_are_those_of_max(number):
    quantiles = torch.special.ndtri((torch.arange(200_000).double() + 0.5) / 200_000)
    levels, error = lloyd_max(quantiles[None], number)
    assert error.item() / 200_000 == pytest.approx(MAX_1960[number], rel=0.02)
    cells = (quantiles[:, None] - levels).abs().argmin(1)
    assert error.item() == pytest.approx((quantiles - levels[0, cells]).square().sum().item(), rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_two_levels_are_the_best_split(seed):
    values = rand64(3, 40, seed=seed).sort(1).values
    _, errors = lloyd_max(values, 2)
    for row, error in zip(values, errors, strict=True):
        splits = [sum(((part - part.mean()) ** 2).sum() for part in (row[:k], row[k:])) for k in range(1, 40)]
        assert min(splits) <= error + 1e-9
        assert error <= 1.15 * min(splits)  # Lloyd's iterations end at a local minimum
        assert error <= ((row - row.mean()) ** 2).sum()


def test_fewer_values_than_levels_are_exact():
    values = torch.tensor([[-1.0, -1.0, 0.5, 2.0]], dtype=torch.float64)
    levels, error = lloyd_max(values, 8)
    assert error.item() == pytest.approx(0, abs=1e-12)
    assert {*values[0].tolist()} <= {*levels[0].tolist()}
    assert (levels.diff() >= 0).all()


@pytest.mark.parametrize("bits", [0, 1, 5, 9])
def test_bits_are_distributed_best(bits):
    gains = rand64(4, 3, seed=bits).abs().sort(0, descending=True).values  # each next bit of a channel gains less
    errors = 100 - torch.cat([torch.zeros(1, 3).double(), gains.cumsum(0)])
    best = min(
        sum(errors[depth, channel].item() for channel, depth in enumerate(depths))
        for depths in itertools.product(range(5), repeat=3)
        if sum(depths) == bits
    )
    depths = distribute(errors, bits)
    assert depths.sum() == bits
    assert errors.gather(0, depths[None]).sum().item() == pytest.approx(best)
