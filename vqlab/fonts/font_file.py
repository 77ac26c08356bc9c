"""Completed fonts: characters from images are added to a font file."""

import io
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.cu2quPen import Cu2QuPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont
from fontTools.ttLib.tables.O_S_2f_2 import calcCodePageRanges
from fontTools.varLib.instancer import instantiateVariableFont

from vqlab.atomic_io import write_atomic
from vqlab.errors import UserError
from vqlab.fonts.draw import ASCENT
from vqlab.fonts.font import Font
from vqlab.fonts.trace import trace

MAX_GLYPHS = 65_535
STALE = {"DSIG", "hdmx", "LTSH", "VORG", "CFF ", "CFF2"}  # the signature, and tables with an entry for each old glyph
# Bit in the table OS/2 -> East Asian code page, and the characters that count for it.
IDEOGRAPHS = "\u3400-\u9fff"
CODE_PAGES = {17: ("shift_jis", f"[\u3041-\u30ff{IDEOGRAPHS}]"), 18: ("gb2312", f"[{IDEOGRAPHS}]")}
CODE_PAGES |= {20: ("big5", f"[{IDEOGRAPHS}]"), 19: ("euc_kr", "[\uac00-\ud7a3]")}
MIN_COVERED = 0.95  # smallest fraction of these characters that a code page of the font contains
CUBIC_ERROR = 0.001  # em, largest distance of quadratic curves from the cubic curves that they replace

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
    """Write a TrueType font: ``base`` with the characters in ``bitmaps`` added, or replaced if it has them.

    A variable font is instantiated at ``weight``; cubic outlines (CFF) become quadratic within a thousandth of an em.
    New glyphs come after the old ones and take part in no layout feature and no kerning.

    Args:
        base: The font to complete.
        bitmaps: Code point -> (S, S) uint8 image as from :func:`~vqlab.fonts.draw.render`.
        out: The font file, ``.ttf``.
        source: Font with the advance widths of new characters, scaled to ``base``. Default: 1 em for all.
        family: Name of the family. Default: that of ``base`` and "vqlab".
        em_scale: Ratio of the em to the image's side.
        weight: Weight of a variable ``base``.

    Returns:
        The code points of the images that are not blank.

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
    file = make_static_truetype(font, out)
    rename(file, family or f"{file['name'].getBestFamilyName() or font.path.stem} vqlab")
    outlines, blank = {}, []
    for code, image in bitmaps.items():
        if image.dtype != np.uint8 or image.ndim != 2 or image.shape[0] != image.shape[1]:
            raise UserError(f"the image of U+{code:04X} must be (S, S) uint8, got {image.shape} {image.dtype}")
        outline = trace(image, em_scale)
        if len(outline.codes):
            outlines[code] = outline
        else:
            blank.append(f"U+{code:04X}")
    if not outlines:
        raise UserError(f"{out} is not written: all {len(blank)} glyphs are blank")
    if blank:
        log.warning(f"{len(blank)} of {len(bitmaps)} images are blank and not in {out}: {', '.join(blank[:5])}")
    widths = advances(file, source, outlines)
    height, origin = vertical_metrics(file) if "vmtx" in file else (0, 0)
    names = add_glyphs(file, list(outlines), font.path)
    glyf = file["glyf"]
    for code, name in names.items():
        pen = TTGlyphPen(None)
        outlines[code].draw(pen, font.units_per_em)
        glyf[name] = glyph = pen.glyph()
        glyph.recalcBounds(glyf)
        # FreeType shifts a glyph so that its ink starts at the side bearing.
        file["hmtx"][name] = (widths[code], glyph.xMin)
        if "vmtx" in file:
            file["vmtx"][name] = (height, origin - glyph.yMax)
    variations = [table for table in file["cmap"].tables if table.format == 14]
    FontBuilder(font=file).setupCharacterMap((file.getBestCmap() or {}) | names, allowFallback=True)
    file["cmap"].tables += variations
    if "OS/2" in file:
        file["OS/2"].recalcUnicodeRanges(file)
        file["OS/2"].recalcAvgCharWidth(file)
        if file["OS/2"].version > 0:
            pages = calcCodePageRanges(set(file.getBestCmap())) - CODE_PAGES.keys()
            file["OS/2"].setCodePageRanges(file["OS/2"].getCodePageRanges() | pages | east_asian_pages(names))
    file.recalcTimestamp = False  # the same input gives the same bytes
    file.flavor = None  # not WOFF2
    with write_atomic(out, "--font") as target:
        file.save(target)
    return list(outlines)


def make_static_truetype(font: Font, out: str | Path) -> TTFont:
    """Return a copy of the font's file with one set of quadratic outlines, to be saved as ``out``."""
    path = Path(out)
    if path.suffix.lower() != ".ttf":
        raise UserError(f"{out} must end in .ttf: set --font={path.with_suffix('.ttf')}")
    if path.exists() and path.samefile(font.path):
        raise UserError(f"{out} is the font to complete: set --font to another file")
    try:
        file = TTFont(io.BytesIO(font.data), lazy=False)  # a lazy font must not be changed
        if "fvar" in file:
            # None is the default of an axis.
            place = {axis.axisTag: font.weight if axis.axisTag == "wght" else None for axis in file["fvar"].axes}
            file = instantiateVariableFont(file, place, inplace=True)
        if "glyf" not in file:
            to_quadratic(file, CUBIC_ERROR * font.units_per_em)
    except Exception as error:  # fontTools raises many kinds of errors for damaged tables
        reason = f"{type(error).__name__}: {error!s:.60}"
        raise UserError(f"{font.setting} {font.path} cannot be converted to static TrueType ({reason})") from error
    for table in STALE & set(file.keys()):
        del file[table]
    return file


def to_quadratic(file: TTFont, error: float) -> None:
    """Replace cubic outlines (CFF) by quadratic ones (glyf), at most ``error`` units from them."""
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
    """Set the name of the family, in English only, and keep the style and the licence."""
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
        counts = f"{len(order):,} glyphs and {len(codes):,} new ones exceed the maximum of a font, {MAX_GLYPHS:,}"
        raise UserError(f"{path}: {counts}: set a smaller charset")
    names = {code: f"uni{code:04X}" if code <= 0xFFFF else f"u{code:X}" for code in codes}
    while taken := set(order) & {*names.values()}:
        names = {code: f"{name}.new" if name in taken else name for code, name in names.items()}
    file["glyf"].glyphOrder = [*order, *names.values()]
    file.setGlyphOrder([*order, *names.values()])
    return names


def east_asian_pages(codes: Iterable[int]) -> set[int]:
    """Return the OS/2 bits of the East Asian code pages that contain nearly all new characters."""
    whole = "".join(map(chr, codes))
    pages = set()
    for bit, (codec, kind) in CODE_PAGES.items():
        text = "".join(re.findall(kind, whole))
        if text and len(text.encode(codec, "ignore").decode(codec)) >= MIN_COVERED * len(text):
            pages.add(bit)
    return pages


def vertical_metrics(file: TTFont) -> tuple[int, int]:
    """Return the most frequent advance height and vertical origin, of wide characters if the font has any."""
    characters = file.getBestCmap() or {}
    names = [name for code, name in characters.items() if is_wide(code)] or characters.values()
    drawn = [name for name in names if file["glyf"][name].numberOfContours]
    places = [(file["vmtx"][name][0], file["vmtx"][name][1] + file["glyf"][name].yMax) for name in drawn]
    em = file["head"].unitsPerEm
    return Counter(places or [(em, round(ASCENT * em))]).most_common(1)[0][0]


def is_wide(code: int) -> bool:
    """Whether a code point is as wide as an ideograph in East Asia."""
    return unicodedata.east_asian_width(chr(code)) in "WF"


def advances(file: TTFont, source: Font | None, codes: Iterable[int]) -> dict[int, int]:
    """Return the advance width of each new character in units of the font.

    If all narrow (or wide) letters of the font have the same width, it is that width; wide characters of a monospaced
    font have twice the narrow width. Else it is the width in the source times the median ratio over shared characters,
    or an em without a source. A width of 0 in the source (combining marks) stays 0.
    """
    em = file["head"].unitsPerEm
    own = {code: file["hmtx"][name][0] for code, name in (file.getBestCmap() or {}).items()}
    theirs = {} if source is None else {code: source.advance(code) * em for code in source.characters}
    shared = [code for code in own.keys() & theirs.keys() if own[code] and theirs[code]]
    fixed, ratio = {}, {}  # wide or not -> the one advance of the font or 0; ratio to the source
    for wide in (False, True):
        widths = {own[code] for code in own if is_wide(code) == wide and chr(code).isalpha() and own[code]}
        fixed[wide] = widths.pop() if len(widths) == 1 else 0
        alike = [code for code in shared if is_wide(code) == wide] or shared
        ratio[wide] = float(np.median([own[code] / theirs[code] for code in alike])) if alike else 1.0
    fixed[True] = fixed[True] or fixed[False] * (2 if fixed[False] < 0.75 * em else 1)
    scaled = {code: round(theirs[code] * ratio[is_wide(code)]) if code in theirs else em for code in codes}
    return {code: (fixed[is_wide(code)] or width) if theirs.get(code, em) else 0 for code, width in scaled.items()}
