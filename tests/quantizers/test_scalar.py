"""ScalarQuantizer: optimal levels and bits, and the words of its symbols."""

import itertools

import pytest
import torch

from tests.helpers.family import rand, rand64
from vqlab import ScalarQuantizer
from vqlab.errors import UserError
from vqlab.quantizers.scalar import distribute, lloyd_max

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


def test_first_batch_gives_more_bits_to_wider_channels():
    quantizer = ScalarQuantizer(4, 16)
    z = rand(64, 4, 32, seed=0) * torch.tensor([8.0, 4.0, 1.0, 0.01])[:, None]
    out = quantizer(z)
    assert quantizer.codebooks()["bits"].tolist() == [7, 6, 3, 0] or quantizer.codebooks()["bits"][3] == 0
    assert (quantizer.codebooks()["bits"].diff() <= 0).all()
    # Each of the best channels is at the error of its bits, that of the last is its variance.
    assert (out.quantized - z)[:, 3].square().mean() == pytest.approx(1e-4, rel=0.1)
    assert (out.quantized - z)[:, 2].square().mean() < 0.06


def test_every_symbol_is_a_code():
    quantizer = ScalarQuantizer(3, 8)
    quantizer(rand(8, 3, 100, seed=1) * torch.tensor([3.0, 1.0, 1.0])[:, None])
    quantizer.eval()
    symbols = torch.arange(256)[:, None, None]
    codes = quantizer.decode(symbols)
    assert len({tuple(code.tolist()) for code in codes[..., 0]}) == 256
    assert torch.equal(quantizer.encode(codes), symbols)


def test_levels_follow_the_values():
    quantizer = ScalarQuantizer(2, 8, ema_decay=0.5)
    z = rand(16, 2, 64, seed=2)
    quantizer(z)
    for _ in range(40):
        quantizer(1.5 * z + 0.5)
    errors = (quantizer(1.5 * z + 0.5).quantized - 1.5 * z - 0.5).square().mean()
    assert errors < 1.5 * 1.5**2 * MAX_1960[16]
    assert (quantizer.levels.diff() >= 0).all()


@pytest.mark.parametrize("bits", [12, 520])
def test_wrong_number_of_bits_is_one_line(bits):
    with pytest.raises(UserError, match=f"bits must be a multiple of 8, at most 512, got {bits}"):
        ScalarQuantizer(64, bits)
