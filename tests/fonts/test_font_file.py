import logging

import numpy as np
import pytest
from fontTools.feaLib.builder import addOpenTypeFeaturesFromString
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from tests.helpers.toy_fonts import DEJAVU, SANS, SERIF, box, build, iou
from vqlab.data.fonts.charsets import read_charset
from vqlab.fonts.draw import render
from vqlab.fonts.font import Font
from vqlab.fonts.font_file import advances, east_asian_pages, write_font


def square(margin=16):
    return np.pad(np.zeros((64 - 2 * margin,) * 2, np.uint8), margin, constant_values=255)


@pytest.fixture
def base(tmp_path):
    return build(tmp_path / "base.ttf", {65: [box(100, 0, 600, 700)], 66: [box(100, 0, 300, 700)]})


def test_written_characters_match_their_images(tmp_path):
    characters = [*range(0x30, 0x3A), *range(0x41, 0x5B), *range(0x61, 0x6F)]
    images = render(SERIF, characters, 128, 0.75)
    out = tmp_path / "out.ttf"
    written = write_font(SANS, dict(zip(characters, images, strict=True)), out, source=SERIF, em_scale=0.75)
    assert written == characters
    assert iou(render(out, characters, 128, 0.75), images).min() >= 0.95
    old, new, source = Font(SANS), Font(out), Font(SERIF)
    widths = [[font.advance(code) for code in characters] for font in (new, source)]
    assert widths[0] == pytest.approx(widths[1], abs=1e-3)
    others = [ord(letter) for letter in "xyzß&Ω"]
    assert [new.outline(code).key for code in others] == [old.outline(code).key for code in others]
    # Pillow, with FreeType, draws the same letters at the same places.
    font = ImageFont.truetype(str(out), 96)
    for code, image in list(zip(characters, images, strict=True))[10:20]:
        drawn = Image.new("L", (128, 128), 255)
        ImageDraw.Draw(drawn).text((16, 16 + 0.88 * 96), chr(code), 0, font, anchor="ls")
        assert iou(drawn, image) > 0.8, "Pillow uses hinting"
    file = TTFont(out)
    for name in map(file.getBestCmap().get, characters):
        assert file["hmtx"][name][1] == file["glyf"][name].xMin


@pytest.mark.parametrize("kind", ["cff", "variable", "woff2"])
def test_other_kinds_of_fonts_become_static_truetype(tmp_path, kind):
    shapes = {65: [box(100, 0, 600, 700), box(200, 100, 400, 600)[::-1]]}
    weights = (400, 400, 800) if kind == "variable" else None
    path = build(tmp_path / "base.otf", shapes, cff=kind == "cff", weights=weights)
    if kind == "woff2":
        font = TTFont(path)
        font.flavor = "woff2"
        font.save(path)
    weight = 600 if weights else None
    out = tmp_path / "out.ttf"
    images = np.stack([square(), square(20)])
    write_font(path, dict(zip((0x4F60, 0x20000), images, strict=True)), out, weight=weight)
    file = TTFont(out)
    assert (file.sfntVersion, file.flavor) == ("\x00\x01\x00\x00", None)
    assert {"CFF ", "fvar", "gvar", "glyf"} & set(file.keys()) == {"glyf"}
    expected = np.concatenate([Font(path, weight).outline(65).points.max(0), [0x20000]])
    np.testing.assert_allclose([*Font(out).outline(65).points.max(0), max(Font(out).characters)], expected, atol=1e-3)
    before, after = (render(font, "A", 64) for font in (Font(path, weight), Font(out)))
    np.testing.assert_array_equal(before, after)
    assert iou(render(out, [0x4F60, 0x20000], 64), images).min() > 0.97
    assert ImageFont.truetype(str(out), 32).getlength("\u4f60") == 32


def test_vertical_metrics_are_the_usual_ones_of_the_font(tmp_path):
    metrics = {".notdef": (1000, 0), "g41": (700, 0), "g4E00": (960, 160), "g4E01": (960, 60)}
    shapes = {65: [box(0, 0, 9, 9)], 0x4E00: [box(0, 0, 9, 700)], 0x4E01: [box(0, 0, 9, 800)]}
    vertical = {"setupVerticalMetrics": {"metrics": metrics}, "setupVerticalHeader": {}}
    base = build(tmp_path / "base.ttf", shapes, **vertical)
    write_font(base, {0x4F60: square()}, tmp_path / "out.ttf")
    new = TTFont(tmp_path / "out.ttf")
    assert new["vmtx"]["uni4F60"] == (960, 860 - new["glyf"]["uni4F60"].yMax)


def test_layout_and_variation_sequences_are_kept_and_code_pages_are_added(tmp_path, base):
    for charset, bit in (("gb1", 18), ("jis1", 17), ("big5l1", 20), ("hangul", 19), ("kana", 17)):
        assert east_asian_pages(read_charset(charset)) == {bit}
    assert east_asian_pages(read_charset("latin")) == set()
    font = TTFont(base)
    features = "feature liga { sub g41 g42 by g42; } liga; feature kern { pos g41 g42 -50; } kern;"
    addOpenTypeFeaturesFromString(font, features)
    sequences = {0xFE00: [(65, "g42")]}
    FontBuilder(font=font).setupCharacterMap(font.getBestCmap(), uvs=[(65, 0xFE00, "g42")])
    font.save(base)
    write_font(base, dict.fromkeys(map(ord, "中文"), square()), tmp_path / "out.ttf")
    new = TTFont(tmp_path / "out.ttf")
    for table in ("GSUB", "GPOS"):
        assert new.getTableData(table) == font.getTableData(table)
    assert new.getGlyphOrder()[:3] == font.getGlyphOrder()
    assert (new["hhea"].ascent, new["hhea"].descent, new["OS/2"].usLastCharIndex) == (880, -120, ord("文"))
    assert {17, 18, 20} <= new["OS/2"].getCodePageRanges()
    assert [table.uvsDict for table in new["cmap"].tables if table.format == 14] == [sequences]


@pytest.mark.parametrize("weights", [None, (400, 400, 800)])
def test_the_same_input_gives_the_same_bytes(tmp_path, weights):
    base = build(tmp_path / "base.ttf", {65: [box(100, 0, 600, 700)]}, weights=weights)
    old = Font(base).glyph("g41").key
    font = TTFont(base, recalcTimestamp=False)
    font["head"].modified = 3_000_000_000  # not the present time
    font.save(base)
    for name in ("a.ttf", "b.ttf"):
        write_font(base, {65: square()}, tmp_path / name)
    new = Font(tmp_path / "a.ttf")
    assert iou(render(new, "A", 64), square()) > 0.97
    assert new.glyph("g41").key == old, "layout tables may refer to the old glyph"
    assert (tmp_path / "a.ttf").read_bytes() == (tmp_path / "b.ttf").read_bytes()
    assert TTFont(tmp_path / "a.ttf")["head"].modified == 3_000_000_000


def test_blank_images_are_left_out_with_a_warning(tmp_path, base, caplog):
    with caplog.at_level(logging.WARNING):
        assert write_font(base, {0x4E00: square(32), 0x4F60: square()}, tmp_path / "out.ttf") == [0x4F60]
    assert f"1 of 2 images are blank and not in {tmp_path / 'out.ttf'}: U+4E00" in caplog.text
    assert set(Font(tmp_path / "out.ttf").characters) == {65, 66, 0x4F60}


def test_family_name_is_replaced_and_licence_is_kept(tmp_path):
    names = {"copyright": "Copyright 2020 A. B.", "licenseDescription": "OFL", "typographicFamily": "Toy Sans"}
    base = build(tmp_path / "base.ttf", {65: [box(0, 0, 9, 9)]}, family="Toy Sans Medium", names=names)
    font = TTFont(base)
    font["name"].setName("玩具", 1, 3, 1, 0x411)
    font.save(base)
    for family in (None, "Drawn (Äther) Sans"):
        write_font(base, {66: square()}, tmp_path / "out.ttf", family=family)
        table = TTFont(tmp_path / "out.ttf")["name"]
        kept = {record.nameID: record.toUnicode() for record in table.names}
        name = family or "Toy Sans vqlab"
        ascii_name = "DrawntherSans-Regular" if family else "ToySansvqlab-Regular"
        renamed = {1: name, 2: "Regular", 3: f"{name}; vqlab", 4: name, 6: ascii_name}
        assert kept == renamed | {0: names["copyright"], 13: "OFL"}
        assert {record.langID for record in table.names if record.nameID == 1} == {0x409}


# Advances of new characters

LETTERS = [*range(0x41, 0x5B), *range(0x61, 0x7B)]


def with_widths(path, widths):
    """Write a font whose characters have these advances."""
    metrics = {".notdef": (1000, 0), **{f"g{code:X}": (width, 0) for code, width in widths.items()}}
    shapes = {code: [box(0, 0, 100, 100)] for code in widths}
    return build(path, shapes, setupHorizontalMetrics={"metrics": metrics})


def test_a_monospaced_font_keeps_its_advance():
    mono, source = TTFont(DEJAVU / "DejaVuSansMono.ttf"), Font(SANS)
    new = advances(mono, source, [*LETTERS, 0x4F60, 0xFF21])
    own = mono["hmtx"]["x"][0]
    assert {new[code] for code in LETTERS} == {own}
    assert new[0x4F60] == new[0xFF21] == 2 * own
    assert advances(mono, None, [65, 0x4F60]) == {65: own, 0x4F60: 2 * own}


def test_advances_by_width(tmp_path):
    """Ideographs have one advance, letters several, a mark 0, and characters that the source lacks 1 em."""
    target = TTFont(with_widths(tmp_path / "a.ttf", {65: 600, 66: 660, 0x4E00: 960, 0x4E01: 960}))
    source = Font(with_widths(tmp_path / "b.ttf", {65: 500, 66: 550, 67: 400, 0x300: 0, 0x4E00: 1000, 0x4E02: 1000}))
    assert advances(target, source, [67, 0x300, 0x4E02, 68]) == {67: 480, 0x300: 0, 0x4E02: 960, 68: 1000}
    square = TTFont(with_widths(tmp_path / "e.ttf", {65: 1000, 66: 1000}))
    assert advances(square, source, [67, 0x4E02]) == {67: 1000, 0x4E02: 1000}
    latin = TTFont(with_widths(tmp_path / "d.ttf", {65: 250, 66: 275}))
    assert advances(latin, source, [0x4E02]) == {0x4E02: 500}, "the ratio of letters, without shared ideographs"
