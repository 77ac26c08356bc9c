"""Lines of text files, in any encoding, as they are or compressed."""

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vqlab.errors import UserError

# Byte order marks; UTF-32 before UTF-16, whose mark starts UTF-32's.
MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"\xef\xbb\xbf": "utf-8-sig",
}
COMPRESSED = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\0": ".xz"}
# How files start that are no text, whatever they are called.
BINARY = {
    b"%PDF": "a PDF file",
    b"PK\x03\x04": "a ZIP archive (as docx, xlsx and epub files are)",
    b"\xd0\xcf\x11\xe0": "an old Word or Excel file",
    b"{\\rtf": "an RTF file",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"SQLite format 3": "an SQLite database",
    b"\x93NUMPY": "a NumPy array",
    b"\x28\xb5\x2f\xfd": "a file compressed by zstd",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x1f\x8b": "compressed by gzip twice",
}
HEAD = 4096  # bytes by which a file is recognised


def read_lines(file: Path, encoding: str) -> Iterator[str]:
    """Yield the lines of a file with their ends.

    Args:
        file: A text file; compressed if it is called ``.gz``, ``.bz2``, ``.xz`` or ``.zip``, or starts like the first
            three.
        encoding: Its encoding; a byte order mark at its start takes precedence.

    Raises:
        UserError: If it cannot be read, is in another encoding or no text.
    """
    number = 0
    try:
        with open_bytes(file) as data:
            encoding = recognise(file, data.peek(HEAD)[:HEAD], encoding)
            for line in io.TextIOWrapper(data, encoding, newline=""):
                yield line
                number += 1
    except UnicodeError as error:  # of UTF-16 without a mark, not UnicodeDecodeError
        raise UserError(
            f"{file} is not {encoding.removesuffix('-sig')} after line {number}: save it as that, or set "
            "--data.encoding to the file's own, such as cp1252, gbk or shift_jis"
        ) from error
    except MemoryError as error:
        raise UserError(
            f"{file} has more in line {number + 1} than memory holds: break the line, or leave it out"
        ) from error
    except (OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"{file} cannot be read ({error.strerror}): leave it out of --data.path") from error
        reason = " ".join(str(error).split())
        raise UserError(f"{file} is damaged after line {number} ({reason}): write or download it anew") from error


def open_bytes(file: Path) -> Any:
    """Return the (decompressed) bytes of a file as a stream with ``peek``."""
    suffix = file.suffix.lower()
    if suffix not in OPENERS:
        with file.open("rb") as start:
            head = start.read(HEAD)
        suffix = next((suffix for magic, suffix in COMPRESSED.items() if head.startswith(magic)), "")
    return OPENERS.get(suffix, open)(file, "rb")


def open_member(file: Path, mode: str) -> Any:
    """Return the bytes of the only file in a ZIP archive."""
    archive = zipfile.ZipFile(file)
    members = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX")]
    if len(members) != 1:
        raise UserError(f"{file} holds {len(members)} files, and only one can be read: unpack it, and give --data.path")
    return archive.open(members[0])


OPENERS: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zip": open_member,
}


def recognise(file: Path, head: bytes, encoding: str) -> str:
    """Return the encoding of a text that starts with ``head``: that of its byte order mark, else ``encoding``.

    Raises:
        UserError: If it is no text, or in UTF-16 without a mark.
    """
    kind = next((kind for magic, kind in BINARY.items() if head.startswith(magic)), None)
    if kind is not None:
        raise UserError(f"{file} is {kind}, not a text file: save it as plain text, or leave it out of --data.path")
    marked = next((name for mark, name in MARKS.items() if head.startswith(mark)), None)
    wide = "16" in encoding or "32" in encoding
    if marked is None and not wide and 4 * head.count(0) > len(head):
        order = "le" if head[1::2].count(0) > head[::2].count(0) else "be"
        raise UserError(
            f"{file} has a zero in every second byte and is not {encoding}: set --data.encoding=utf-16-{order}, or "
            "leave it out if it is not a text file"
        )
    return marked or encoding


def require_encoding(encoding: str) -> None:
    """Raise UserError unless Python knows the encoding, as one of texts."""
    try:
        "a".encode(encoding)
    except LookupError as error:
        raise UserError(f"encoding {encoding!r} is unknown: set --data.encoding=utf-8") from error
