"""Advances of new characters, their code pages, and vertical metrics."""

import numpy as np
import pytest
from fontTools.ttLib import TTFont

from tests.helpers.toy_fonts import DEJAVU, SANS, box, build
from vqlab.data.fonts.charsets import read_charset
from vqlab.fonts.font import Font
from vqlab.fonts.font_tables import advances, east_asian_pages, vertical_metrics

LETTERS = [*range(0x41, 0x5B), *range(0x61, 0x7B)]


def with_widths(path, widths, pitch=0):
    """A font whose characters have these advances."""
    build(path, {code: [box(0, 0, 100, 100)] for code in widths})
    font = TTFont(path)
    for code, width in widths.items():
        font["hmtx"][f"g{code:X}"] = (width, 0)
    font["post"].isFixedPitch = pitch
    font.save(path)
    return path


def test_a_monospaced_font_keeps_its_advance():
    mono, source = TTFont(DEJAVU / "DejaVuSansMono.ttf"), Font(SANS)
    new = advances(mono, source, [*LETTERS, 0x4F60, 0xFF21])
    own = mono["hmtx"]["x"][0]
    assert {new[code] for code in LETTERS} == {own}
    assert new[0x4F60] == new[0xFF21] == 2 * own
    assert advances(mono, None, [65, 0x4F60]) == {65: own, 0x4F60: 2 * own}


@pytest.mark.parametrize(("target", "most"), [("DejaVuSans-Bold.ttf", 0.04), ("DejaVuSerif.ttf", 0.06)])
def test_advances_are_the_sources_times_the_median_ratio(target, most):
    file, source = TTFont(DEJAVU / target), Font(SANS)
    new, units, cmap = advances(file, source, LETTERS), file["head"].unitsPerEm, file.getBestCmap()
    own = np.array([file["hmtx"][cmap[code]][0] for code in LETTERS]) / units
    assert np.abs(np.array([new[code] for code in LETTERS]) / units - own).mean() < most
    ratios = [new[code] / source.advance(code) / units for code in LETTERS]
    assert max(ratios) - min(ratios) < 0.01


def test_advances_by_width(tmp_path):
    """Ideographs of one advance; letters of several; a mark of none; what the source lacks is an em wide."""
    target = TTFont(with_widths(tmp_path / "a.ttf", {65: 600, 66: 660, 0x4E00: 960, 0x4E01: 960}))
    source = Font(with_widths(tmp_path / "b.ttf", {65: 500, 66: 550, 67: 400, 0x300: 0, 0x4E00: 1000, 0x4E02: 1000}))
    new = advances(target, source, [67, 0x300, 0x4E02, 68])
    assert new == {67: 480, 0x300: 0, 0x4E02: 960, 68: 1000}
    pitched = TTFont(with_widths(tmp_path / "c.ttf", {65: 500, 66: 500, 67: 510}, pitch=1))
    assert advances(pitched, source, [67, 0x300, 0x4E02]) == {67: 500, 0x300: 0, 0x4E02: 1000}
    square = TTFont(with_widths(tmp_path / "e.ttf", {65: 1000, 66: 1000}))
    assert advances(square, source, [67, 0x4E02]) == {67: 1000, 0x4E02: 1000}
    latin = TTFont(with_widths(tmp_path / "d.ttf", {65: 250, 66: 275}))
    assert advances(latin, source, [0x4E02]) == {0x4E02: 500}, "of letters alone, where no ideograph is in both"


def test_the_pages_of_whole_standards():
    for charset, bit in (("gb1", 18), ("jis1", 17), ("big5l1", 20), ("hangul", 19), ("kana", 17)):
        assert east_asian_pages(read_charset(charset)) == {bit}
    assert east_asian_pages(read_charset("latin")) == set()
    assert east_asian_pages(map(ord, "中文")) == {17, 18, 20}


def test_vertical_metrics_are_those_of_the_font(tmp_path):
    metrics = {".notdef": (1000, 0), "g41": (700, 0), "g4E00": (960, 160), "g4E01": (960, 60)}
    shapes = {65: [box(0, 0, 9, 9)], 0x4E00: [box(0, 0, 9, 700)], 0x4E01: [box(0, 0, 9, 800)]}
    tall = build(tmp_path / "a.ttf", shapes, setupVerticalMetrics={"metrics": metrics}, setupVerticalHeader={})
    assert vertical_metrics(TTFont(tall)) == (960, 860)
    del shapes[0x4E00], shapes[0x4E01]
    flat = build(
        tmp_path / "b.ttf",
        shapes,
        setupVerticalMetrics={"metrics": {name: metrics[name] for name in (".notdef", "g41")}},
        setupVerticalHeader={},
    )
    assert vertical_metrics(TTFont(flat)) == (700, 9)
