"""Font tables of new characters: advances, character maps, code pages and vertical metrics."""

import unicodedata
from collections import Counter
from collections.abc import Iterable

import numpy as np
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib import TTFont
from fontTools.ttLib.tables._c_m_a_p import CmapSubtable
from fontTools.ttLib.tables.O_S_2f_2 import calcCodePageRanges

from vqlab.fonts.draw import ASCENT
from vqlab.fonts.font import Font

# Bit of OS/2 -> Windows' code page of East Asia, and the standard that holds its usual characters.
JAPANESE, CHINESE, KOREAN = {17: "shift_jis"}, {18: "gb2312", 20: "big5"}, {19: "euc_kr"}
MIN_COVERED = 0.95  # fraction of the new characters that must be in a standard whose code page is claimed


def is_wide(code: int) -> bool:
    """Whether a code point is as wide as an ideograph in East Asia."""
    return unicodedata.east_asian_width(chr(code)) in "WF"


def advances(file: TTFont, source: Font | None, codes: Iterable[int]) -> dict[int, int]:
    """Return the advance width of each new character in units of the font.

    Where all narrow (or wide) characters of the font have one advance, new ones get it; a monospaced font without wide
    characters gives them twice its advance. Otherwise it is the source's advance times the median ratio of the advances
    over the characters that both have, or an em without a source. Combining marks, 0 in the source, stay 0.
    """
    em = file["head"].unitsPerEm
    own = {code: file["hmtx"][name][0] for code, name in (file.getBestCmap() or {}).items()}
    theirs = {} if source is None else {code: source.advance(code) * em for code in source.characters}
    shared = [code for code in own.keys() & theirs.keys() if own[code] and theirs[code]]
    pitch = bool("post" in file and file["post"].isFixedPitch)
    fixed, ratio = {}, {}
    for wide in (False, True):
        # Latin fonts have some of the wide symbols, as narrow as letters.
        group = [code for code in own if is_wide(code) == wide and (not wide or chr(code).isalpha())]
        widths = Counter(own[code] for code in group if own[code])
        if len(widths) == 1 < widths.total() or (pitch and widths):
            fixed[wide] = widths.most_common(1)[0][0]
        alike = [code for code in shared if is_wide(code) == wide] or shared
        ratio[wide] = float(np.median([own[code] / theirs[code] for code in alike])) if alike else 1.0
    if False in fixed and True not in fixed:
        fixed[True] = fixed[False] * (2 if fixed[False] < 0.75 * em else 1)

    def advance(code: int) -> int:
        wide = is_wide(code)
        width = theirs.get(code, em)
        return fixed.get(wide, round(width * ratio[wide] if code in theirs else em)) if width else 0

    return {code: advance(code) for code in codes}


def vertical_metrics(file: TTFont) -> tuple[int, int]:
    """Return the most frequent advance height and vertical origin, of ideographs if the font has any."""
    em, glyf, characters = file["head"].unitsPerEm, file["glyf"], file.getBestCmap() or {}
    names = [name for code, name in characters.items() if is_wide(code)] or characters.values()
    places = Counter(
        (height, top + glyf[name].yMax)
        for name in names
        for height, top in [file["vmtx"][name]]
        if glyf[name].numberOfContours
    )
    return places.most_common(1)[0][0] if places else (em, round(ASCENT * em))


def complete_tables(file: TTFont) -> None:
    """Add the tables that Windows and browsers require and old fonts lack: OS/2, post, a Unicode map."""
    builder, head, hhea = FontBuilder(font=file), file["head"], file["hhea"]
    cmap = file["cmap"]
    if not any((table.platformID, table.platEncID) in ((3, 1), (3, 10)) for table in cmap.tables):
        cmap.tables.append(subtable(4, 1, {c: name for c, name in (file.getBestCmap() or {}).items() if c <= 0xFFFF}))
    if "post" not in file:
        builder.setupPost()
    if "OS/2" not in file:
        bold, italic = head.macStyle & 1, head.macStyle >> 1 & 1
        builder.setupOS2(
            usWeightClass=700 if bold else 400,
            fsSelection=bold << 5 | italic or 1 << 6,
            sTypoAscender=hhea.ascent,
            sTypoDescender=hhea.descent,
            sTypoLineGap=hhea.lineGap,
            usWinAscent=max(hhea.ascent, 0),
            usWinDescent=max(-hhea.descent, 0),
        )
    if file["OS/2"].version == 0:
        file["OS/2"].version, file["OS/2"].ulCodePageRange1, file["OS/2"].ulCodePageRange2 = 1, 0, 0


def map_characters(file: TTFont, names: dict[int, str]) -> None:
    """Map code points to their glyphs, in a new table of 32 bits if the font's have 16."""
    cmap = file["cmap"]
    tables = [table for table in cmap.tables if table.isUnicode() and table.format != 14]
    if not any(table.format in (12, 13) for table in tables) and max(names) > 0xFFFF:
        wide = subtable(12, 10, dict(file.getBestCmap() or {}))
        cmap.tables.append(wide)
        tables.append(wide)
    for table in tables:
        most = 0x10FFFF if table.format in (12, 13) else 0xFFFF
        table.cmap.update({code: name for code, name in names.items() if code <= most})
    os2 = file["OS/2"]
    os2.recalcUnicodeRanges(file)
    os2.recalcAvgCharWidth(file)
    pages = calcCodePageRanges(set(file.getBestCmap())) - {*JAPANESE, *CHINESE, *KOREAN, 21}
    os2.setCodePageRanges(os2.getCodePageRanges() | pages | east_asian_pages(names))


def subtable(form: int, encoding: int, characters: dict[int, str]) -> CmapSubtable:
    """Return a character map for Windows."""
    table = CmapSubtable.newSubtable(form)
    table.platformID, table.platEncID, table.language, table.cmap = 3, encoding, 0, characters
    return table


def east_asian_pages(codes: Iterable[int]) -> set[int]:
    """Return the OS/2 bits of the East Asian code pages that hold nearly all of the new characters.

    fontTools looks for one sample character of each, and finds the traditional one of Chinese in the simplified set.
    """
    kana, ideographs, hangul = (
        "".join(chr(code) for code in codes if first <= code <= last)
        for codes in [list(codes)]
        for first, last in ((0x3041, 0x30FF), (0x3400, 0x9FFF), (0xAC00, 0xD7A3))
    )
    pages = ((kana + ideographs, JAPANESE), (ideographs, CHINESE), (hangul, KOREAN))
    return {
        bit
        for text, standards in pages
        for bit, codec in standards.items()
        if text and len(text.encode(codec, "ignore").decode(codec)) >= MIN_COVERED * len(text)
    }
