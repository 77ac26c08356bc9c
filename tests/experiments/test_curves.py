"""Curves: what is drawn of a series."""

import math
import random
from xml.etree import ElementTree

import numpy as np
import pytest

from vqlab.experiments.curves import INTERVALS, draw, intervals


def test_intervals_have_mean_and_range_of_the_finite_values():
    values = np.random.default_rng(0).random(10 * INTERVALS)
    values[5], values[20:30] = math.inf, math.nan
    steps, means, least, most = intervals(list(enumerate(values, 1)))
    values[5] = math.nan
    rows = np.delete(values.reshape(INTERVALS, 10), 2, axis=0)
    assert steps.tolist() == list(range(10, 10 * INTERVALS + 1, 10))
    assert np.isnan([means[2], least[2], most[2]]).all()
    for found, reduce in ((means, np.nanmean), (least, np.nanmin), (most, np.nanmax)):
        np.testing.assert_allclose(np.delete(found, 2), reduce(rows, axis=1))


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


def test_a_logarithmic_axis_has_plain_numbers():
    picture = draw([(0, "run", [(i, 10.0**-i) for i in range(4)])], log=True)
    assert b">0.1<" in picture
    assert b"$" not in picture
