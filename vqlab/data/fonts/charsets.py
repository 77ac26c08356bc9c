"""Sets of characters by name, by range and from text files."""

import re
import unicodedata
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from vqlab.errors import UserError

RANGE = re.compile(r"U\+([0-9A-F]{1,6})(?:-(?:U\+)?([0-9A-F]{1,6}))?", re.IGNORECASE)
LAST = 0x10FFFF


def of_codec(codec: str, first: int, last: int) -> list[int]:
    """Return the characters from ``first`` to ``last`` of a two-byte encoding."""
    texts = (pair.to_bytes(2, "big").decode(codec, "replace") for pair in range(first, last + 1))
    return [ord(text) for text in texts if len(text) == 1 and text != "\ufffd"]  # which stands for what is none


def of_script(*names: str) -> list[int]:
    """Return the letters whose Unicode names start with one of ``names``."""
    letters = (code for code in range(0x10000) if unicodedata.category(chr(code))[0] == "L")
    return [code for code in letters if unicodedata.name(chr(code), "").startswith(names)]


# Sets of ideographs and syllables are the rows of national standards, in the order of these.
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
    """Return code points, each once, in the order in which they are named.

    Args:
        charset: Names of sets, ranges like ``U+4E00-4FFF``, single code points like ``U+4F60``, or UTF-8 files that
            hold characters in any number of lines, or such ranges in lines of their own; white space and lines that
            start with ``#`` and a space do not count. Several make one set.

    Raises:
        UserError: If one is none of these, or a line of a file cannot be read.

    Example:
        >>> "".join(map(chr, read_charset(["U+41-43", "U+62", "ascii"])))[:8]
        'ABCb!"#$'
        >>> {name: len(read_charset(name)) for name in ("jis1", "jis2", "gb1", "big5l1", "hangul")}
        {'jis1': 2965, 'jis2': 3390, 'gb1': 3755, 'big5l1': 5401, 'hangul': 2350}
    """
    parts = [charset] if isinstance(charset, str) else charset
    codes = list(dict.fromkeys(code for part in parts for code in read_part(part)))
    if not codes:
        raise UserError(f"charset {charset} holds no characters: set --data.charset=auto")
    return codes


def read_part(part: str) -> list[int]:
    """Return the code points of one name, range or file."""
    if part in NAMED:
        return named(part)
    if part.upper().startswith("U+"):
        return read_range(part, f"charset {part!r}")
    if Path(part).is_file():
        return read_file(Path(part))
    raise UserError(
        f"charset {part!r} is no set ({', '.join(NAMED)}), no range (U+4E00-4FFF) and no file: set --data.charset=auto"
    )


@cache
def named(name: str) -> list[int]:
    """Return a set of ``NAMED``."""
    return NAMED[name]()


def read_range(text: str, where: str) -> list[int]:
    """Return the code points of ``U+4E00-4FFF`` or ``U+4E00``.

    Raises:
        UserError: If it is none; the message starts with ``where``.
    """
    match = RANGE.fullmatch(text)
    first, last = (int(match[1], 16), int(match[2] or match[1], 16)) if match else (1, 0)
    if not first <= last <= LAST:
        raise UserError(f"{where} is no range of code points: write one like U+4E00-4FFF in --data.charset")
    return list(range(first, last + 1))


def read_file(path: Path) -> list[int]:
    """Return the code points of a text file.

    Raises:
        UserError: If it cannot be read; the message names the line.
    """
    codes: list[int] = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise UserError(
                f"line {number} of {path} is not UTF-8: save the file as UTF-8, or set another --data.charset"
            ) from error
        if text.upper().startswith("U+"):
            codes += read_range(text, f"line {number} of {path}, {text[:20]!r},")
        elif not text.startswith("# "):
            codes += [ord(character) for character in text if not character.isspace()]
    return codes
