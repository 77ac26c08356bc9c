"""Curves: what is drawn of a series."""

import math
import random
from xml.etree import ElementTree

import numpy as np
import pytest

from vqlab.experiments.curves import FEW, WINDOW, draw, smooth, thin


def test_smoothing_is_the_mean_of_the_finite_values_around():
    values = np.random.default_rng(0).random(100)
    values[50] = math.nan
    half = round(WINDOW * 100) // 2
    expected = [np.nanmean(values[max(0, i - half) : i + half]) for i in range(100)]
    expected[50] = math.nan
    np.testing.assert_allclose(smooth(values), expected)
    assert smooth(values[:FEW]).tolist() == values[:FEW].tolist()


def test_thinning_keeps_the_extremes_the_ends_and_the_order():
    values = np.random.default_rng(0).random(10_000)
    values[5000], values[6001], values[7000:8000] = 99.0, -99.0, math.nan
    kept = thin(values, 100).tolist()
    assert len(kept) <= 102
    assert {5000, 6001, 9999} <= set(kept)
    assert kept == sorted(kept)
    assert np.isnan(values[kept]).any(), "the line is broken where values are not finite"


@pytest.mark.parametrize("values", [[math.nan], [1.0], [0.0] * 3, [5.0] * 30, [math.nan] * 30, [-3.0, math.inf]])
@pytest.mark.parametrize("log", [True, False])
def test_every_series_is_drawn_with_its_name(values, log):
    names = ["<b>&", "_hidden $x$"]
    series = [[(10 * i, value) for i, value in enumerate(line)] for line in (values, [1.0, 2.0])]
    root = ElementTree.fromstring(draw([(i, names[i], series[i]) for i in range(2)], log))
    texts = [text.text.strip() for text in root.iter("{http://www.w3.org/2000/svg}text") if text.text]
    assert texts[-2:] == names


def test_a_picture_of_many_long_series_is_small():
    draw_from = random.Random(0)
    lines = [(c, "run", [(i, draw_from.expovariate(1)) for i in range(5000)]) for c in range(12)]
    assert len(draw(lines, log=True)) < 200_000
