"""Fonts completed with characters that come as images."""

import io
import logging
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.cu2quPen import Cu2QuPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont
from fontTools.varLib.instancer import instantiateVariableFont

from vqlab.atomic_io import write_atomic
from vqlab.errors import UserError
from vqlab.fonts.draw import EmBox
from vqlab.fonts.font import Font, Outline
from vqlab.fonts.font_tables import advances, complete_tables, map_characters, vertical_metrics
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
    outlines (CFF) are converted to quadratic ones within a thousandth of an em. New glyphs come after the old ones, so
    layout tables stay as they are, and no feature and no kerning knows the new glyphs. Tables that Windows and browsers
    require are made where the base lacks them. The family gets a new name, as the Open Font License asks for where the
    old one is reserved.

    Args:
        base: The font to complete.
        bitmaps: Code point -> (S, S) uint8 image as :func:`~vqlab.fonts.draw.render` draws them.
        out: The font file, ``.ttf``.
        source: A font whose advance widths are taken, scaled by the ratio of base to source over the characters that
            both have; None makes each an em wide. A monospaced base gives its own advance, or twice it.
        family: Name of the family. Default: the base's with "vqlab".
        em_scale: Ratio of the em to the image's side.
        weight: Weight of a variable ``base``.

    Returns:
        The code points written. Blank images are left out with a warning.

    Raises:
        UserError: If a font cannot be read, all images are blank, a name is reserved, the font would have more than
            65,535 glyphs, or the file cannot be written.

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
    box, font = EmBox(em_scale), Font(base, weight, "base")
    source = Font(source, setting="source") if isinstance(source, str | Path) else source
    file = check_completion(font, out, family)
    rename(file, family, font.path)
    complete_tables(file)
    outlines = trace_all(bitmaps, box, out)
    widths = advances(file, source, outlines)
    height, top = vertical_metrics(file) if "vmtx" in file else (0, 0)
    names = add_names(file, list(outlines), font.path)
    for code, outline in outlines.items():
        pen = TTGlyphPen(None)
        outline.draw(pen, font.units_per_em)
        glyph = pen.glyph()
        glyph.recalcBounds(file["glyf"])
        file["glyf"][names[code]] = glyph
        # FreeType moves a glyph so that its ink starts at the side bearing.
        file["hmtx"][names[code]] = (widths[code], glyph.xMin)
        if "vmtx" in file:
            file["vmtx"][names[code]] = (height, top - glyph.yMax)
    map_characters(file, names)
    save(file, out)
    return list(outlines)


def trace_all(bitmaps: Mapping[int, np.ndarray], box: EmBox, out: str | Path) -> dict[int, Outline]:
    """Return the outlines of the images that are not blank; a warning names the blank ones."""
    outlines = {}
    for code, image in bitmaps.items():
        if image.dtype != np.uint8 or image.ndim != 2 or image.shape[0] != image.shape[1]:
            raise UserError(f"the image of U+{code:04X} must be (S, S) uint8, got {image.shape} {image.dtype}")
        outlines[code] = trace(image, box)
    drawn = {code: outline for code, outline in outlines.items() if len(outline.codes)}
    if not drawn:
        raise UserError(f"{out} is not written: all {len(outlines)} glyphs are blank")
    if len(drawn) < len(outlines):
        blank = [f"U+{code:04X}" for code in outlines if code not in drawn]
        some = ", ".join(blank[:5]) + (", ..." if len(blank) > 5 else "")
        log.warning(f"{len(blank)} of {len(outlines)} images are blank and not in {out}: {some}")
    return drawn


def make_static_truetype(font: Font) -> TTFont:
    """Return a copy of the font's file with one set of outlines, in quadratic curves."""
    try:
        file = instance(font) if "fvar" in font.file else font.copy()
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


def instance(font: Font) -> TTFont:
    """Return the static font at the weight, with the style's name where a variable font has one for it."""
    place = {axis.axisTag: axis.defaultValue for axis in font.file["fvar"].axes}
    if font.weight is not None:
        place["wght"] = font.weight
    try:
        return instantiateVariableFont(font.copy(), place, inplace=True, updateFontNames=True)
    except (ValueError, KeyError):  # no table STAT, or none with this place
        return instantiateVariableFont(font.copy(), place, inplace=True)


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


def add_names(file: TTFont, codes: list[int], path: Path) -> dict[int, str]:
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
        taken.add(name)
    file["glyf"].glyphOrder = [*order, *names.values()]
    file.setGlyphOrder([*order, *names.values()])
    return names


def check_completion(font: Font, out: str | Path, family: str | None) -> TTFont:
    """Check what can be known before a font is completed, and return its file as static TrueType.

    Raises:
        UserError: If ``out`` is not a .ttf file or is the font itself, the licence reserves a part of the new family's
            name, or the font cannot be made static TrueType.
    """
    path = Path(out)
    if path.suffix.lower() != ".ttf":
        raise UserError(f"{out} must end in .ttf: set --font={path.with_suffix('.ttf')}")
    if path.exists() and path.samefile(font.path):
        raise UserError(f"{out} is the font to be completed: set --font to another file")
    new = family or new_family(font.file, font.path)
    for reserved in reserved_names(font.file):
        if reserved.lower() in new.lower():
            raise UserError(
                f"family must not contain {reserved!r}, which the licence of {font.path} reserves, got {new!r}: set "
                "--family"
            )
    return make_static_truetype(font)


def new_family(file: TTFont, path: Path) -> str:
    """Return the default family name of a completed font."""
    return f"{file['name'].getBestFamilyName() or path.stem} vqlab"


def rename(file: TTFont, family: str | None, path: Path) -> None:
    """Give the font the name of another family, in English only; style, version and licence keep their text."""
    table = file["name"]
    old = table.getBestFamilyName() or path.stem
    new = family or new_family(file, path)
    texts = {number: table.getDebugName(number) for number in (1, 2, 4, 16, 17)}
    style = texts[17] or texts[2] or "Regular"
    first = (texts[1] or old).replace(old, new)
    full = new if style == "Regular" else f"{new} {style}"
    names = {
        1: first if new in first else new,
        2: texts[2] or "Regular",
        3: f"{new} {style}; vqlab",
        4: full,
        6: postscript_name(new, style),
    }
    if texts[16]:
        names[16] = new
    if texts[17]:
        names[17] = texts[17]
    for number in (1, 3, 4, 6, 16, 18, 20, 21, 22, 25):
        table.removeNames(nameID=number)
    for number, text in names.items():
        table.setName(text, number, 3, 1, 0x409)


def postscript_name(family: str, style: str) -> str:
    """Return the PostScript name, in ASCII; a family without ASCII letters gets a number of its own."""
    family_part, style_part = (re.sub(r"[^!-~]|[\[\](){}<>/%]", "", text) for text in (family, style))
    if family_part in ("", "vqlab"):
        family_part = f"vqlab{zlib.crc32(family.encode()):08x}"
    return f"{family_part}-{style_part or 'Regular'}"[:63]


def reserved_names(file: TTFont) -> list[str]:
    """Return the names that a font's copyright or licence reserves, as the Open Font License words it."""
    texts = [record.toUnicode() for record in file["name"].names if record.nameID in (0, 13)]
    found = [match for text in texts for match in re.findall(r"Reserved Font Names?:?\s+([^\n.;()]+)", text)]
    parts = [part for match in found for part in re.split(r",|\band\b", match)]
    return sorted({part.strip(" '\"‘’“”") for part in parts} - {""})


def save(file: TTFont, out: str | Path) -> None:
    """Write the font whole."""
    file.recalcTimestamp = False  # the same input gives the same bytes
    file.flavor = None  # not WOFF2
    data = io.BytesIO()
    file.save(data)
    with write_atomic(out, "--font") as target:
        target.write(data.getvalue())
