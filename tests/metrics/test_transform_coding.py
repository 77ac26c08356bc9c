"""Classical coders against published figures, theory and exhaustive search."""

import itertools
import math

import pytest
import torch

from tests.helpers.family import rand64
from vqlab.metrics import PCM, KLTEntropyCoded, KLTLloydMax, WaveletEntropyCoded
from vqlab.metrics.transform_coding import (
    UniformCoder,
    cumulative,
    distribute,
    lloyd_max,
    squared_error,
    uniform_levels,
)

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


def correlated(count, channels=1, seed=0):
    """Return windows (count, channels, 128) of a Gaussian process with less power at high frequencies."""
    noise = rand64(count, channels, 128, seed=seed)
    return torch.fft.irfft(torch.fft.rfft(noise) / (8 + torch.arange(65)), 128)


def snr_of(coder, x, rate):
    coded = coder.code(x, rate)
    return 10 * torch.log10(x.var() / (coded.x_hat - x).square().mean()).item(), coded.bits_per_sample


def best_partition(values, number):
    """Return the least squared error of ``number`` levels for ascending values, by dynamic programming."""
    size = len(values)
    cost = [[0.0] * (size + 1) for _ in range(size)]
    for start, end in itertools.combinations(range(size + 1), 2):
        part = values[start:end]
        cost[start][end] = float(((part - part.mean()) ** 2).sum())
    least = [0.0] + [float("inf")] * size
    for _ in range(number):
        least = [0.0] + [min(least[start] + cost[start][end] for start in range(end)) for end in range(1, size + 1)]
    return least[size]


@pytest.mark.parametrize(("number", "seed"), [*itertools.product((2, 3, 4), range(3))])
def test_lloyd_max_is_close_to_the_best_partition(number, seed):
    values = rand64(60, seed=seed).sort().values
    error, best = lloyd_max(values[None], number)[1].item(), best_partition(values, number)
    assert best <= error + 1e-9
    assert error <= 1.15 * best  # Lloyd's iterations end at a local minimum


# Steps of the best uniform quantizer of a normal variable, and its squared error (Max 1960, table II)
UNIFORM_1960 = {2: (1.596, 0.3634), 4: (0.9957, 0.1188), 8: (0.5860, 0.03744), 16: (0.3352, 0.01154)}


@pytest.mark.parametrize("number", UNIFORM_1960)
def test_step_for_normal_values_is_that_of_max(number):
    quantiles = torch.special.ndtri((torch.arange(20_000).double() + 0.5) / 20_000)
    levels = uniform_levels(quantiles[None], number)
    step, error = UNIFORM_1960[number]
    torch.testing.assert_close(levels.diff(), torch.full((number - 1,), step).double(), rtol=0.01, atol=0)
    assert squared_error(quantiles[None], cumulative(quantiles[None]), levels[None]).item() / 20_000 == pytest.approx(
        error, rel=0.01
    )


def test_range_of_pcm_follows_skewed_values():
    values = rand64(1, 4000, seed=4).exp().sort(1).values
    levels = uniform_levels(values, 4)
    error = squared_error(values, cumulative(values), levels[None]).item()
    others = [low + step * torch.arange(4) for low in torch.arange(0, 3, 0.1) for step in torch.arange(0.3, 6, 0.1)]
    assert error <= min(squared_error(values, cumulative(values), other[None].double()).item() for other in others)


@pytest.mark.parametrize("coder", [KLTLloydMax(16), KLTEntropyCoded(16), WaveletEntropyCoded()])
def test_a_bit_more_gives_6_dB(coder):
    fitted, x = coder.fit(correlated(6000)), correlated(200, seed=1)
    (low, rate), (high, more) = snr_of(fitted, x, 6), snr_of(fitted, x, 7)
    assert (high - low) / (more - rate) == pytest.approx(6.02, abs=0.2)


def test_lloyd_max_of_the_klt_reaches_the_coding_gain():
    """At b bits D = sqrt(3) pi / 2 (geometric mean of the variances) 2^(-2b) for Gaussian values."""
    x, fitted = correlated(400, seed=1), KLTLloydMax(16).fit(correlated(2000))
    rows = correlated(2000).view(-1, 16)
    mean_log = torch.linalg.eigvalsh((rows.T @ rows) / len(rows)).log2().mean()
    expected = math.sqrt(3) * math.pi / 2 * 2 ** (mean_log.item() - 2 * 5)
    assert (fitted.code(x, 5).x_hat - x).square().mean().item() == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("rate", [3, 5])
def test_entropy_of_the_klt_is_that_of_theory(rate):
    """For Gaussian coefficients rate = mean of h - log2 step, D = step^2 / 12."""
    x, rows = correlated(4000, seed=1), correlated(4000).view(-1, 16)
    coded = KLTEntropyCoded(16).fit(correlated(4000)).code(x, rate)
    entropy = 0.5 * (math.log2(2 * math.pi * math.e) + torch.linalg.eigvalsh((rows.T @ rows) / len(rows)).log2().mean())
    step = (12 * (coded.x_hat - x).square().mean()).sqrt()
    assert coded.bits_per_sample == pytest.approx((entropy - step.log2()).item(), abs=0.05)
    assert coded.bits_per_sample == pytest.approx(rate, abs=0.05)


@pytest.mark.parametrize("dead_zone", [False, True])
def test_entropy_of_normal_values_is_that_of_theory(dead_zone):
    """rate = h - log2 step."""
    bits = UniformCoder([rand64(200_000, 1, seed=0)], 0.02, dead_zone).code([rand64(50_000, 1, seed=1)])[1]
    assert bits / 50_000 == pytest.approx(0.5 * math.log2(2 * math.pi * math.e) - math.log2(0.02), abs=0.02)


@pytest.mark.parametrize("length", [64, 100, 50])
def test_wavelets_of_tiny_steps_reconstruct(length):
    coder, x = WaveletEntropyCoded().fit(rand64(20, 2, length, seed=3)), rand64(20, 2, length, seed=4)
    bands = coder.forward(x)
    rows, _ = UniformCoder(coder.bands, 1e-4, dead_zone=True).code([band.view(-1, 1) for band in bands])
    x_hat = coder.inverse([row.view_as(band) for row, band in zip(rows, bands, strict=True)], x)
    assert 0 < (x_hat - x).abs().max() < 1e-3


@pytest.mark.parametrize("coder", [PCM(), KLTLloydMax(16), KLTEntropyCoded(16), WaveletEntropyCoded()])
def test_channels_are_coded_as_windows_of_their_own(coder):
    train, x = correlated(60, channels=3), correlated(20, channels=3, seed=1)
    coded = coder.fit(train).code(x, 2)
    alone = coder.fit(train.view(180, 1, 128)).code(x.view(60, 1, 128), 2)
    assert coded.bits_per_sample == pytest.approx(alone.bits_per_sample)
    torch.testing.assert_close(coded.x_hat.view(60, 1, 128), alone.x_hat)


def test_code_lengths_are_those_of_frequencies_plus_one():
    train, x = torch.tensor([[0.0, 5], [1, 5], [1, 7]]), torch.tensor([[1.0, 6], [9, 5]])
    (x_hat,), bits = UniformCoder([train], 1.0).code([x])
    # first column: symbols 0, 1 and the escape; second: 5, 6, 7 and the escape
    lengths = [math.log2(6 / 3), math.log2(6 / 1) + 32, math.log2(7 / 1), math.log2(7 / 3)]
    assert bits == pytest.approx(sum(lengths))
    assert x_hat.tolist() == [[1, 6], [9, 5]]


def test_reconstruction_is_the_training_centroid():
    train = torch.tensor([[0.9], [1.2], [1.3], [3.0]])
    (x_hat,), _ = UniformCoder([train], 1.0).code([torch.tensor([[0.6], [2.1], [-7.2]])])
    assert x_hat.flatten().tolist() == pytest.approx([(0.9 + 1.2 + 1.3) / 3, 2, -7])


def test_unseen_symbols_with_a_dead_zone_are_in_the_middle_of_their_cells():
    train = torch.tensor([[-0.9], [0.7], [1.2], [3.5]])
    (x_hat,), _ = UniformCoder([train], 1.0, dead_zone=True).code([torch.tensor([[0.9], [2.1], [-7.2], [1.9]])])
    assert x_hat.flatten().tolist() == pytest.approx([-0.1, 2.5, -7.5, 1.2])
