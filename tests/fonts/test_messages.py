"""Error messages for bad fonts, characters, images and file names."""

from pathlib import Path

import numpy as np
import pytest
from fontTools.ttLib import TTFont

from tests.helpers.refusal import refused
from tests.helpers.toy_fonts import SANS, box, build
from vqlab.fonts.draw import render
from vqlab.fonts.font import Font
from vqlab.fonts.font_file import write_font

BLANK = np.full((64, 64), 255, np.uint8)
INK = np.pad(np.zeros((32, 32), np.uint8), 16, constant_values=255)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write good and bad fonts into the working folder."""
    monkeypatch.chdir(tmp_path)
    data = Path(SANS).read_bytes()
    bare = TTFont(SANS)
    for table in ("glyf", "loca"):
        del bare[table]
    bare.save("bare.ttf")
    Path("text.ttf").write_text("no font at all")
    Path("cut.ttf").write_bytes(data[:400])
    Path("many.ttc").write_bytes(b"ttcf\0\2\0\0\0\0\0\5" + data)
    build("base.ttf", {65: [box(100, 0, 600, 700)]})
    build("variable.ttf", {65: [box(100, 0, 600, 700)]}, weights=(400, 400, 800))


def damaged_glyph():
    font = Font("base.ttf", setting="target")
    font.characters[66] = "not there"
    font.outline(66)


CASES = [
    (lambda: Font("text.ttf", setting="source"), "source must be a single TTF, OTF or WOFF2 file, text.ttf is not"),
    (lambda: Font("cut.ttf"), "cut.ttf is not"),
    (lambda: Font("many.ttc"), "single TTF, OTF or WOFF2 file, many.ttc is not (specify a font number between 0 and 4"),
    (lambda: Font("bare.ttf"), "font must be a font with outlines, bare.ttf lacks outlines"),
    (lambda: Font("none.ttf"), "none.ttf cannot be read (No such file"),
    (lambda: Font("variable.ttf", 950), "weight must be from 400 to 800 for variable.ttf, got 950"),
    (lambda: Font("base.ttf", setting="target").outline(0x4F60), "target must have U+4F60, base.ttf lacks it"),
    (damaged_glyph, "target base.ttf is damaged at glyph 'not there': set another font file"),
    (lambda: render(SANS, "A", 100), "image_size must be one of 16, 32, 64"),
    (lambda: render(SANS, "A", 64, float("nan")), "em_scale must be in (0, 1], got nan"),
    (lambda: write_font("base.ttf", {67: INK}, "base.ttf"), "base.ttf is the font to complete: set --font"),
    (lambda: write_font("base.ttf", {67: INK}, "out.otf"), "out.otf must end in .ttf: set --font=out.ttf"),
    (lambda: write_font("base.ttf", {67: INK}, "text.ttf/out.ttf"), "set --font"),
    (lambda: write_font("base.ttf", {67: INK / 255.0}, "out.ttf"), "must be (S, S) uint8, got (64, 64) float64"),
    (lambda: write_font("base.ttf", {67: INK[:32]}, "out.ttf"), "U+0043 must be (S, S) uint8, got (32, 64) uint8"),
    (lambda: write_font("base.ttf", {67: BLANK}, "out.ttf"), "out.ttf is not written: all 1 glyphs are blank"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), CASES)
def test_bad_input_gives_one_line_and_no_file(files, call, message):
    with refused(message):
        call()
    assert not list(Path().glob("out*"))
