import numpy as np
import pytest
from fontTools.ttLib import TTFont

from tests.helpers.toy_fonts import SANS, box, build
from vqlab.fonts.font import CLOSE, Font, Outline


def test_outlines_are_in_em_for_all_units(tmp_path):
    thousand = Font(build(tmp_path / "a.ttf", {65: [box(100, 0, 600, 700)]}))
    other = Font(build(tmp_path / "b.ttf", {65: [box(50, 0, 300, 350)]}, units=500))
    outline = thousand.outline(65)
    expected = [(0.1, 0), (0.1, 0.7), (0.6, 0.7), (0.6, 0)]
    np.testing.assert_allclose(outline.points[outline.codes != CLOSE], expected)
    np.testing.assert_array_equal(outline.points, other.outline(65).points)
    assert thousand.advance(65) == other.advance(65) == 1
    assert (thousand.name, thousand.units_per_em, list(thousand.characters)) == ("Toy", 1000, [65])


def test_cubic_and_compressed_fonts_hold_the_same_outlines(tmp_path):
    shapes = {65: [box(100, 0, 600, 700), box(200, 100, 500, 600)[::-1]]}
    build(tmp_path / "a.ttf", shapes)
    build(tmp_path / "a.otf", shapes, cff=True)
    for flavor in ("woff", "woff2"):
        font = TTFont(tmp_path / "a.ttf")
        font.flavor = flavor
        font.save(tmp_path / f"a.{flavor}")
    outlines = [Font(tmp_path / f"a.{end}").outline(65) for end in ("ttf", "otf", "woff", "woff2")]
    assert len({outline.key for outline in outlines}) == 1


def test_the_key_depends_on_the_shape_and_not_on_position_and_order():
    rng = np.random.default_rng()
    one, two = rng.normal(size=(2, 4, 2))
    close, codes = np.zeros((1, 2)), np.array([1, 2, 2, 2, CLOSE] * 2, np.uint8)

    def key(*contours):
        return Outline(np.concatenate([part for contour in contours for part in (contour, close)]), codes).key

    assert key(one, two) == key(one + 0.25, two + 0.25) == key(two, one) == key(np.roll(one, 1, 0), two) != 0
    assert len({key(one, two), key(one, two + 0.25), key(one * 2, two * 2), key(one[:, ::-1], two)}) == 4
    assert Outline(np.empty((0, 2)), np.empty(0, np.uint8)).key == 0


def test_a_variable_font_is_drawn_at_its_weight(tmp_path):
    path = build(tmp_path / "v.ttf", {65: [box(100, 0, 600, 700)]}, weights=(400, 400, 800))
    fonts = {weight: Font(path, weight) for weight in (None, 400, 600, 800)}
    right = {weight: font.outline(65).points[:, 0].max() for weight, font in fonts.items()}
    assert right == pytest.approx({None: 0.6, 400: 0.6, 600: 0.75, 800: 0.9})
    assert fonts[400].weights == (400, 800)
    assert len({font.digest for font in fonts.values()}) == 4
    assert Font(SANS).weights is None
    assert Font(SANS, 700).digest == Font(SANS).digest
