"""Sets of characters by name, range or text file."""

import re
import unicodedata
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from vqlab.errors import UserError

RANGE = re.compile(r"U\+([0-9A-F]{1,6})(?:-(?:U\+)?([0-9A-F]{1,6}))?", re.IGNORECASE)


@cache
def of_codec(codec: str, first: int, last: int) -> list[int]:
    """Return the characters from ``first`` to ``last`` of a two-byte encoding."""
    texts = (pair.to_bytes(2, "big").decode(codec, "replace") for pair in range(first, last + 1))
    return [ord(text) for text in texts if len(text) == 1 and text != "\ufffd"]  # the replacement character


@cache
def of_script(*names: str) -> list[int]:
    """Return the letters with a Unicode name that starts with one of ``names``."""
    letters = (code for code in range(0x10000) if unicodedata.category(chr(code))[0] == "L")
    return [code for code in letters if unicodedata.name(chr(code), "").startswith(names)]


# Ideographs and syllables are in the order of the national standards.
NAMED: dict[str, Callable[[], list[int]]] = {
    "ascii": lambda: list(range(0x21, 0x7F)),
    "latin": partial(of_script, "LATIN "),
    "greek": partial(of_script, "GREEK "),
    "cyrillic": partial(of_script, "CYRILLIC "),
    "kana": partial(of_script, "HIRAGANA ", "KATAKANA "),
    "jis1": partial(of_codec, "euc_jp", 0xB0A1, 0xCFFE),
    "jis2": partial(of_codec, "euc_jp", 0xD0A1, 0xF4FE),
    "gb1": partial(of_codec, "gb2312", 0xB0A1, 0xD7FE),
    "gb2": partial(of_codec, "gb2312", 0xD8A1, 0xF7FE),
    "big5l1": partial(of_codec, "big5", 0xA440, 0xC67E),
    "big5l2": partial(of_codec, "big5", 0xC940, 0xF9FE),
    "hangul": partial(of_codec, "euc_kr", 0xB0A1, 0xC8FE),
}


def read_charset(charset: str | list[str]) -> list[int]:
    """Return the distinct code points of named sets, ranges like ``U+4E00-4FFF`` and UTF-8 files, in their order."""
    parts = [charset] if isinstance(charset, str) else charset
    codes = list(dict.fromkeys(code for part in parts for code in _read_part(part)))
    if not codes:
        raise UserError(f"charset must hold a character, got {charset}")
    return codes


def _read_part(part: str) -> list[int]:
    if part in NAMED:
        return NAMED[part]()
    if part.upper().startswith("U+"):
        match = RANGE.fullmatch(part)
        first, last = (int(match[1], 16), int(match[2] or match[1], 16)) if match else (1, 0)
        if not first <= last <= 0x10FFFF:
            raise UserError(f"charset must have ranges of code points like U+4E00-4FFF, got {part[:20]!r}")
        return list(range(first, last + 1))
    if not Path(part).is_file():
        raise UserError(f"charset must be of {', '.join(NAMED)}, ranges (U+4E00-4FFF) and text files, got {part!r}")
    try:
        return [ord(character) for character in Path(part).read_text("utf-8-sig") if not character.isspace()]
    except UnicodeDecodeError as error:
        raise UserError(f"charset {part} is not in UTF-8 ({error}): save it as UTF-8") from error
