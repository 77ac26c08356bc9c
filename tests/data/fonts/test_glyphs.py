import numpy as np

from tests.helpers.refusal import refused
from tests.helpers.toy_fonts import NOTDEF, SERIF, box, build
from vqlab.data.fonts import glyphs
from vqlab.data.fonts.glyphs import BLANK, LIKE_NOTDEF, OUTSIDE, USABLE, draw_glyphs
from vqlab.fonts.draw import render
from vqlab.fonts.font import Font


def test_flaws_are_found(tmp_path):
    shapes = {65: [box(100, 0, 600, 700)], 66: [], 67: NOTDEF}
    shapes |= {68: [box(0, 0, 1500, 700)], 69: [box(5000, 0, 5100, 700)]}  # partly and completely outside
    font = Font(build(tmp_path / "a.ttf", shapes))
    found = draw_glyphs(font, list(shapes), 64, 0.875, None)
    assert found.characters.tolist() == list(shapes)
    assert found.flaws.tolist() == [USABLE, BLANK, LIKE_NOTDEF, OUTSIDE, BLANK]
    assert found.having(USABLE) == {65}
    assert found.having(USABLE, OUTSIDE) == {65, 68}
    assert found.outlines.tolist()[1] == 0
    assert found.rows([68, 65]).tolist() == [3, 0]


def test_images_are_cached_until_a_setting_changes(tmp_path, monkeypatch):
    font, codes, cache = Font(SERIF), [65, 66, 0xC4], str(tmp_path / "new" / "cache")
    fresh = draw_glyphs(font, codes, 64, 0.875, None)
    first = draw_glyphs(font, codes, 64, 0.875, cache)
    (file,) = (tmp_path / "new" / "cache").iterdir()
    monkeypatch.setattr(glyphs, "draw", None)
    again = draw_glyphs(Font(SERIF), codes, 64, 0.875, cache)
    for drawn in (first, again):
        for name in ("characters", "outlines", "flaws", "densities", "images"):
            np.testing.assert_array_equal(getattr(drawn, name), getattr(fresh, name))
    assert isinstance(again.images, np.memmap)
    np.testing.assert_array_equal(fresh.images, render(SERIF, codes, 64))
    monkeypatch.undo()
    build(tmp_path / "toy.ttf", {65: [box(100, 0, 600, 700)]}, weights=(400, 400, 800))
    toys = [(Font(tmp_path / "toy.ttf", weight), [65], 64, 0.875) for weight in (None, 500)]
    for change in ((font, codes, 128, 0.875), (font, codes[:2], 64, 0.875), (font, codes, 64, 0.75), *toys):
        before = set(file.parent.iterdir())
        draw_glyphs(*change, cache)
        assert len(set(file.parent.iterdir()) - before) == 1


def test_a_failed_drawing_leaves_no_file(tmp_path):
    font = Font(SERIF)
    font.characters[66] = "not there"
    with refused("damaged at glyph"):
        draw_glyphs(font, [65, 66], 64, 0.875, str(tmp_path))
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with refused("cannot be written", "set --data.cache"):
        draw_glyphs(font, [65], 64, 0.875, str(tmp_path / "file"))
