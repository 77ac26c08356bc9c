"""Mean and scale of blocks: standardised windows, interpolation, flat and short records."""

import numpy as np
import pytest

from tests.helpers.codecs import wave
from vqlab.models.vq.block_scaling import FLAT, BlockScaling


def standardised(x, block):
    mean, scale = BlockScaling.fit(x, block).curves(0, x.shape[1])
    return (x - mean) / scale


def test_windows_have_mean_0_and_deviation_1():
    windows = standardised(wave(64 * 512, 2), 512).reshape(2, 64, 512)
    assert np.abs(windows.mean(-1)).max() < 0.3
    assert 0.8 < windows.std(-1).min() < windows.std(-1).max() < 1.3


def test_curves_pass_through_the_blocks_and_have_no_steps():
    x = wave(10 * 100)
    scaling = BlockScaling.fit(x, 100)
    mean, scale = scaling.curves(0, 1000)
    blocks = x.reshape(10, 100)
    for curve, values in ((mean, blocks.mean(1)), (scale, blocks.std(1))):
        centres = (curve[0, 49::100] + curve[0, 50::100]) / 2
        tolerance = blocks.std(1) / 16 if curve is mean else values * (2 ** (1 / 8) - 1)  # half a step
        assert (np.abs(centres - values) <= 1.02 * tolerance).all()
        assert np.abs(np.diff(curve)).max() < np.ptp(centres) / 40
    part = scaling.curves(123, 456)
    np.testing.assert_array_equal(part, (mean[:, 123:456], scale[:, 123:456]))


@pytest.mark.parametrize("samples", [1, 2, 99, 100, 199])
def test_record_shorter_than_two_blocks_is_one_block(samples):
    scaling = BlockScaling.fit(wave(samples), 100)
    assert scaling.gains.shape == scaling.offsets.shape == (1, 1)


def test_constant_channel_has_its_value_as_mean_and_scale_0():
    mean, scale = BlockScaling.fit(np.full((1, 300), 1e-6, np.float32), 100).curves(0, 300)
    np.testing.assert_array_equal(mean, np.full((1, 300), np.float32(1e-6), np.float64))
    assert not scale.any()


def test_flat_block_is_scaled_up_to_a_limit():
    x = wave(400)
    x[:, 100:200] = 3
    _, scale = BlockScaling.fit(x, 100).curves(140, 160)
    assert scale.min() == pytest.approx(FLAT * x.std(), rel=0.5)
