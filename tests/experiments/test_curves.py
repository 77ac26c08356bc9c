"""Curves as SVG: everything is drawn at its place."""

import itertools
import math
import random
import re
from xml.etree import ElementTree

import pytest

from vqlab.experiments.curves import BOTTOM, FEW, LEFT, RIGHT, TOP, WINDOW, Axis, Line, draw, smooth, thin, value_axis

SVG = "{http://www.w3.org/2000/svg}"


def line(values, name="a", number=0):
    return Line(name, name, number, [(10 * (i + 1), value) for i, value in enumerate(values)])


def curves(svg):
    """Return the points of each curve, and the number of its pieces."""
    found = []
    for path in ElementTree.fromstring(svg).iter(f"{SVG}path"):
        if re.match("c|raw", path.get("class")):
            d = path.get("d")
            found.append(([tuple(map(float, pair.split())) for pair in re.split("[ML]", d)[1:]], d.count("M")))
    return found


def test_values_lie_where_the_axes_say():
    values = [3.0, 1.0, 2.0, 5.0]
    svg = draw("val/psnr", [line(values)])
    ((points, pieces),) = curves(svg)
    y = value_axis(values, log=False)
    for (px, py), (i, value) in zip(points, enumerate(values), strict=True):
        assert px == pytest.approx(LEFT + (i + 1) / 4 * (RIGHT - LEFT), abs=0.06)
        assert py == pytest.approx(BOTTOM + (value - y.low) / (y.high - y.low) * (TOP - BOTTOM), abs=0.06)
    assert (pieces, svg.count("<circle")) == (1, 4)
    ((points, pieces),) = curves(draw("x", [line([1.0, 2.0, math.nan, 3.0, 1.0])]))
    assert (len(points), pieces) == (4, 2), "it breaks where a value is not finite"


@pytest.mark.parametrize("seed", range(4))
def test_everything_is_inside_the_frame(seed):
    draw_from = random.Random(seed)
    scale = 10.0 ** draw_from.randint(-8, 8)
    lines = [line([draw_from.expovariate(1) * scale for _ in range(500)], str(c), c) for c in range(12)]
    lines[0].series[7] = (80, math.inf)
    lines[1].series[3] = (40, -scale)
    svg = draw("train/loss", lines)
    assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for points, _ in curves(svg) for x, y in points)
    assert "nan" not in svg
    assert len(svg) < 80_000


@pytest.mark.parametrize(
    "values", [[], [math.nan], [1.0], [0.0, 0.0, 0.0], [5.0] * 30, [math.nan] * 30, [-3.0, math.inf]]
)
def test_odd_series_are_drawn_as_far_as_possible(values):
    assert len(curves(draw("val/loss", [line(values), line([1.0, 2.0])]))) >= 2


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.2, 17.0), (1e-7, 3e-7), (9990, 10010), (0.26, 0.3)])
def test_ticks_are_round_and_inside(low, high):
    ticks = Axis(low, high, 0, 1).ticks()
    assert 3 <= len(ticks) <= 7
    assert all(low <= tick <= high * (1 + 1e-9) for tick in ticks)
    (step,) = {f"{b - a:.4g}" for a, b in itertools.pairwise(ticks)}
    assert step.lstrip("-0.")[0] in "125"


@pytest.mark.parametrize(("low", "high"), [(1e-6, 1e3), (0.02, 3), (1, 40), (1e-30, 1e20)])
def test_ticks_of_a_logarithmic_axis(low, high):
    axis = value_axis([low, high], log=True)
    assert axis.log
    assert axis.place(math.sqrt(axis.low * axis.high)) == pytest.approx((axis.start + axis.end) / 2)
    assert 3 <= len(axis.ticks()) <= 8
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks())
    assert not value_axis([low, high], log=False).log


def test_smoothing_is_an_exponential_mean_of_the_values_before():
    series = [(i, random.Random(i).random()) for i in range(100)]
    keep = 1 - 1 / (WINDOW * 100)
    for place, (step, value) in enumerate(smooth(series)):
        weights = [keep ** (place - j) for j in range(place + 1)]
        expected = sum(w * v for w, (_, v) in zip(weights, series, strict=False)) / sum(weights)
        assert (step, value) == (place, pytest.approx(expected, abs=1e-9))
    assert smooth(series[:FEW]) == series[:FEW]


def test_thinning_keeps_the_extremes_the_ends_and_the_order():
    series = [(i, random.Random(i).random()) for i in range(10_000)]
    series[5000], series[6001] = (5000, 99.0), (6001, -99.0)
    kept = thin(series, 100)
    assert len(kept) <= 102
    assert {(5000, 99.0), (6001, -99.0), series[-1]} <= set(kept) <= set(series)
    assert kept == sorted(kept)


def test_a_picture_alone_has_a_legend_with_escaped_names_and_its_style():
    names = ["<b>&", 'a"b', "c"]
    lines = [Line(name, name, number, [(1, 1.0), (2, 3.0)]) for number, name in enumerate(names)]
    root = ElementTree.fromstring(draw('m"<', lines, legend=True))
    assert [text.text for text in root.iter(f"{SVG}text")][-3:] == names
    assert root.get("aria-label") == 'm"<'
    assert "prefers-color-scheme:dark" in next(root.iter(f"{SVG}style")).text
