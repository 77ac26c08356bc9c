"""Fonts with known glyphs, made of polygons."""

from pathlib import Path

import matplotlib
import numpy as np
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.t2CharStringPen import T2CharStringPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib.tables.TupleVariation import TupleVariation

DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
SANS, SERIF = str(DEJAVU / "DejaVuSans.ttf"), str(DEJAVU / "DejaVuSerif.ttf")
NOTDEF = [[(100, 0), (100, 700), (500, 700), (500, 0)]]


def box(left, bottom, right, top):
    """Return a rectangle, clockwise: filled in TrueType."""
    return [(left, bottom), (left, top), (right, top), (right, bottom)]


def iou(a, b):
    """Return intersection over union of the ink in images (N, S, S)."""
    a, b = (np.asarray(images) < 128 for images in (a, b))
    return (a & b).sum((-2, -1)) / (a | b).sum((-2, -1))


def build(path, shapes, units=1000, cff=False, family="Toy", weights=None, names=None, **tables):
    """Write a font of ``shapes`` (code point -> contours); ``weights`` (min, default, max) stretch it in x."""
    glyphs = {".notdef": NOTDEF, **{f"g{code:X}": contours for code, contours in shapes.items()}}
    builder = FontBuilder(units, isTTF=not cff)
    builder.setupGlyphOrder(list(glyphs))
    builder.setupCharacterMap({code: f"g{code:X}" for code in shapes})
    drawn = {}
    for name, contours in glyphs.items():
        width = None if weights else units  # CFF2 has none
        pen = T2CharStringPen(width, None, CFF2=bool(weights)) if cff else TTGlyphPen(None)
        for contour in contours:
            pen.moveTo(contour[0])
            for point in contour[1:]:
                pen.lineTo(point)
            pen.closePath()
        drawn[name] = pen.getCharString() if cff else pen.glyph()
    if cff and weights:
        builder.setupCFF2(drawn)
    elif cff:
        builder.setupCFF(family, {}, drawn, {})
    else:
        builder.setupGlyf(drawn)
    lefts = {name: min((x for contour in contours for x, _ in contour), default=0) for name, contours in glyphs.items()}
    builder.setupHorizontalMetrics({name: (units, left) for name, left in lefts.items()})
    builder.setupHorizontalHeader(ascent=880, descent=-120)
    builder.setupNameTable({"familyName": family, "styleName": "Regular", "fullName": family, **(names or {})})
    builder.setupOS2(sTypoAscender=880, sTypoDescender=-120)
    builder.setupPost()
    if weights:
        builder.setupFvar([("wght", *weights, "Weight")], [])
    if weights and not cff:
        moves = {
            name: [TupleVariation({"wght": (0, 1, 1)}, [(x // 2, 0) for c in contours for x, _ in c] + [(0, 0)] * 4)]
            for name, contours in glyphs.items()
        }
        builder.setupGvar(moves)
    for setup, arguments in tables.items():
        getattr(builder, setup)(**arguments)
    builder.font.save(path)
    return str(path)
