"""Fonts completed with characters that come as images."""

import io
import logging
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.cu2quPen import Cu2QuPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont
from fontTools.varLib.instancer import instantiateVariableFont

from vqlab.atomic_io import write_atomic
from vqlab.errors import UserError
from vqlab.fonts.draw import ASCENT, EmBox
from vqlab.fonts.font import Font, Outline
from vqlab.fonts.trace import trace

MAX_GLYPHS = 65_535
STALE = ("DSIG", "hdmx", "LTSH", "VORG", "CFF ", "CFF2")  # signature, and tables with an entry for each old glyph
CUBIC_ERROR = 0.001  # em, largest distance of quadratic curves from the cubic ones that they replace

log = logging.getLogger(__name__)


def write_font(
    base: str | Path,
    bitmaps: Mapping[int, np.ndarray],
    out: str | Path,
    source: Font | str | Path | None = None,
    family: str | None = None,
    em_scale: float = 0.875,
    weight: float | None = None,
) -> list[int]:
    """Write a TrueType font: ``base`` with the characters in ``bitmaps`` added, or drawn anew where it has them.

    Everything else is the base's: outlines, metrics, licence. A variable font is instantiated at ``weight``, and cubic
    outlines (CFF) are converted to quadratic ones within a thousandth of an em. New glyphs come after the old ones; no
    feature and no kerning knows them.

    Args:
        base: The font to complete.
        bitmaps: Code point -> (S, S) uint8 image as :func:`~vqlab.fonts.draw.render` draws them.
        out: The font file, ``.ttf``.
        source: A font whose advance widths are taken, scaled to the base's; None makes each an em wide.
        family: Name of the family. Default: the base's with "vqlab".
        em_scale: Ratio of the em to the image's side.
        weight: Weight of a variable ``base``.

    Returns:
        The code points written, without those of blank images.

    Raises:
        UserError: If a font cannot be read or completed, all images are blank, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> from matplotlib import get_data_path
        >>> from vqlab.fonts.draw import render
        >>> sans, serif = (f"{get_data_path()}/fonts/ttf/DejaVu{name}.ttf" for name in ("Sans", "Serif"))
        >>> file = f"{tempfile.mkdtemp()}/new.ttf"
        >>> write_font(serif, {ord("A"): render(sans, "A", 128)[0]}, file, source=sans)
        [65]
        >>> Font(file).name
        'DejaVu Serif vqlab Book'
    """
    font = Font(base, weight, "base")
    source = Font(source, setting="source") if isinstance(source, str | Path) else source
    file = check_completion(font, out)
    rename(file, family or f"{file['name'].getBestFamilyName() or font.path.stem} vqlab")
    outlines = trace_all(bitmaps, EmBox(em_scale), out)
    widths = advances(file, source, outlines)
    names = add_glyphs(file, list(outlines), font.path)
    glyf, origin = file["glyf"], round(ASCENT * font.units_per_em)
    for code, name in names.items():
        pen = TTGlyphPen(None)
        outlines[code].draw(pen, font.units_per_em)
        glyf[name] = glyph = pen.glyph()
        glyph.recalcBounds(glyf)
        # FreeType moves a glyph so that its ink starts at the side bearing.
        file["hmtx"][name] = (widths[code], glyph.xMin)
        if "vmtx" in file:
            file["vmtx"][name] = (font.units_per_em, origin - glyph.yMax)
    FontBuilder(font=file).setupCharacterMap((file.getBestCmap() or {}) | names)
    if "OS/2" in file:
        file["OS/2"].recalcUnicodeRanges(file)
        file["OS/2"].recalcAvgCharWidth(file)
        if file["OS/2"].version > 0:
            file["OS/2"].recalcCodePageRanges(file)
    file.recalcTimestamp = False  # the same input gives the same bytes
    file.flavor = None  # not WOFF2
    data = io.BytesIO()
    file.save(data)
    with write_atomic(out, "--font") as target:
        target.write(data.getvalue())
    return list(outlines)


def check_completion(font: Font, out: str | Path) -> TTFont:
    """Return the font's file as static TrueType; raise UserError if it or ``out`` cannot be written."""
    path = Path(out)
    if path.suffix.lower() != ".ttf":
        raise UserError(f"{out} must end in .ttf: set --font={path.with_suffix('.ttf')}")
    if path.exists() and path.samefile(font.path):
        raise UserError(f"{out} is the font to be completed: set --font to another file")
    return make_static_truetype(font)


def trace_all(bitmaps: Mapping[int, np.ndarray], box: EmBox, out: str | Path) -> dict[int, Outline]:
    """Return the outlines of the images that are not blank; a warning names the blank ones."""
    outlines = {}
    for code, image in bitmaps.items():
        if image.dtype != np.uint8 or image.ndim != 2 or image.shape[0] != image.shape[1]:
            raise UserError(f"the image of U+{code:04X} must be (S, S) uint8, got {image.shape} {image.dtype}")
        outlines[code] = trace(image, box)
    drawn = {code: outline for code, outline in outlines.items() if len(outline.codes)}
    blank = [f"U+{code:04X}" for code in outlines if code not in drawn]
    if not drawn:
        raise UserError(f"{out} is not written: all {len(outlines)} glyphs are blank")
    if blank:
        log.warning(f"{len(blank)} of {len(outlines)} images are blank and not in {out}: {', '.join(blank[:5])}")
    return drawn


def make_static_truetype(font: Font) -> TTFont:
    """Return a copy of the font's file with one set of outlines, in quadratic curves."""
    try:
        file = font.copy()
        if "fvar" in file:
            place = {axis.axisTag: axis.defaultValue for axis in file["fvar"].axes}
            place |= {} if font.weight is None else {"wght": font.weight}
            file = instantiateVariableFont(file, place, inplace=True)
        if "glyf" not in file:
            to_quadratic(file, CUBIC_ERROR * font.units_per_em)
    except Exception as error:  # damaged tables make fontTools raise many things
        raise UserError(
            f"{font.setting} must be a font that can be made static TrueType, {font.path} cannot "
            f"({type(error).__name__}: {error!s:.60})"
        ) from error
    for table in STALE:
        if table in file:
            del file[table]
    return file


def to_quadratic(file: TTFont, error: float) -> None:
    """Put quadratic outlines (glyf) in the place of cubic ones (CFF), ``error`` units from them at most."""
    glyphs, converted = file.getGlyphSet(), {}
    for name in file.getGlyphOrder():
        pen = TTGlyphPen(glyphs)
        glyphs[name].draw(Cu2QuPen(pen, error, reverse_direction=True))
        converted[name] = pen.glyph()
    builder = FontBuilder(font=file)
    builder.isTTF = True
    builder.setupGlyf(converted)
    builder.setupMaxp()
    file["maxp"].maxZones = 1  # no instructions
    for name, glyph in converted.items():
        file["hmtx"][name] = (file["hmtx"][name][0], getattr(glyph, "xMin", 0))
    file["head"].glyphDataFormat = 0
    post = file["post"]
    post.formatType, post.extraNames, post.mapping = 2.0, [], {}
    file.sfntVersion = "\x00\x01\x00\x00"


def rename(file: TTFont, family: str) -> None:
    """Give the font the name of another family, in English only; style, version and licence keep their text."""
    table = file["name"]
    style = table.getBestSubFamilyName() or "Regular"
    full = family if style == "Regular" else f"{family} {style}"
    ascii_name = re.sub(r"[^A-Za-z0-9-]", "", f"{family}-{style}")[:63]
    for number in (1, 2, 3, 4, 6, 16, 17, 18, 20, 21, 22, 25):
        table.removeNames(nameID=number)
    for number, text in {1: family, 2: style, 3: f"{full}; vqlab", 4: full, 6: ascii_name}.items():
        table.setName(text, number, 3, 1, 0x409)


def add_glyphs(file: TTFont, codes: list[int], path: Path) -> dict[int, str]:
    """Append a glyph for each code point, and return their names."""
    order = list(file.getGlyphOrder())
    if len(order) + len(codes) > MAX_GLYPHS:
        raise UserError(
            f"{path} has {len(order):,} glyphs and {len(codes):,} more exceed a font's maximum of {MAX_GLYPHS:,}: "
            "choose a smaller charset"
        )
    taken = set(order)
    names: dict[int, str] = {}
    for code in codes:
        name = f"uni{code:04X}" if code <= 0xFFFF else f"u{code:X}"
        while name in taken:
            name += ".new"
        names[code] = name
    file["glyf"].glyphOrder = [*order, *names.values()]
    file.setGlyphOrder([*order, *names.values()])
    return names


def is_wide(code: int) -> bool:
    """Whether a code point is as wide as an ideograph in East Asia."""
    return unicodedata.east_asian_width(chr(code)) in "WF"


def advances(file: TTFont, source: Font | None, codes: Iterable[int]) -> dict[int, int]:
    """Return the advance width of each new character in units of the font.

    Where all narrow (or wide) letters of the font have one advance, new ones get it, and wide ones of a monospaced font
    twice its advance. Otherwise it is the source's advance times the median ratio of the advances over the characters
    that both have, or an em without a source. Combining marks, 0 in the source, stay 0.
    """
    em = file["head"].unitsPerEm
    own = {code: file["hmtx"][name][0] for code, name in (file.getBestCmap() or {}).items()}
    theirs = {} if source is None else {code: source.advance(code) * em for code in source.characters}
    shared = [code for code in own.keys() & theirs.keys() if own[code] and theirs[code]]
    fixed: dict[bool, int] = {}  # 0 if there is no one advance
    ratio: dict[bool, float] = {}
    for wide in (False, True):
        widths = {own[code] for code in own if is_wide(code) == wide and chr(code).isalpha() and own[code]}
        fixed[wide] = widths.pop() if len(widths) == 1 else 0
        alike = [code for code in shared if is_wide(code) == wide] or shared
        ratio[wide] = float(np.median([own[code] / theirs[code] for code in alike])) if alike else 1.0
    if fixed[False] and not fixed[True]:
        fixed[True] = fixed[False] * (2 if fixed[False] < 0.75 * em else 1)

    def advance(code: int) -> int:
        width = theirs.get(code, em)
        scaled = round(width * ratio[is_wide(code)]) if code in theirs else em
        return (fixed[is_wide(code)] or scaled) if width else 0

    return {code: advance(code) for code in codes}
