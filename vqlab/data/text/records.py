"""Text files: their lines in any encoding, compressed or not, and the records of csv, tsv, JSON and txt files."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from vqlab.data.split_folders import SPLIT_OF
from vqlab.errors import UserError

Record = dict[str, Any]  # name of a column -> value

# Byte order marks; UTF-32 before UTF-16, whose mark starts UTF-32's.
MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"\xef\xbb\xbf": "utf-8-sig",
}
COMPRESSED = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\0": ".xz"}
# First bytes of PDF, ZIP (docx, xlsx, epub), Word, RTF, Parquet, Arrow, SQLite, NumPy, zstd, 7z, RAR, PNG, JPEG and
# gzip files (the last: a file that is compressed twice).
BINARY: tuple[bytes, ...] = (b"%PDF", b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"{\\rtf", b"PAR1", b"ARROW1", b"SQLite")
BINARY += (b"\x93NUMPY", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!", b"\x89PNG", b"\xff\xd8\xff", b"\x1f\x8b")
HEAD = 4096  # bytes by which a file is recognised
EXTENSIONS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt")
OCTIS = ["text", "split", "label"]  # the columns of its corpus.tsv, which does not name them
LONGEST = 2**31 - 1  # characters of a field; the csv module's own limit of 131,072 is less than a book has


def read_lines(file: Path, encoding: str) -> Iterator[str]:
    """Yield the lines of a file with their ends.

    Args:
        file: A text file; compressed if its name ends in ``.gz``, ``.bz2``, ``.xz`` or ``.zip``, or if it starts like
            the first three.
        encoding: Its encoding; a byte order mark at its start takes precedence.

    Raises:
        UserError: If it cannot be read, has another encoding or is no text.
    """
    number = 0
    try:
        with open_bytes(file) as data:
            encoding = find_encoding(file, data.peek(HEAD)[:HEAD], encoding)
            for line in io.TextIOWrapper(data, encoding, newline=""):
                yield line
                number += 1
    except UnicodeError as error:  # UTF-16 without a mark does not raise UnicodeDecodeError
        raise UserError(
            f"{file} is not {encoding.removesuffix('-sig')} after line {number}: save it in this encoding, or set "
            "encoding=cp1252, gbk, shift_jis or what it is"
        ) from error
    except MemoryError as error:
        raise UserError(f"{file} has more in line {number + 1} than fits into memory: break the line") from error
    except (OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or f"damaged after line {number}: {' '.join(str(error).split())}"
        raise UserError(f"{file} cannot be read ({reason}): write it again, or leave it out") from error


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
        raise UserError(f"{file} must hold one file, but holds {len(members)}: unpack it")
    return archive.open(members[0])


OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zip": open_member}


def find_encoding(file: Path, head: bytes, encoding: str) -> str:
    """Return the encoding of a text that starts with ``head``: that of its byte order mark, else ``encoding``.

    Raises:
        UserError: If it is no text, or UTF-16 without a mark.
    """
    if head.startswith(BINARY):
        raise UserError(f"{file} is not plain text but a document, archive or other binary file: save it as plain text")
    marked = next((name for mark, name in MARKS.items() if head.startswith(mark)), None)
    is_wide = "16" in encoding or "32" in encoding
    if marked is None and not is_wide and 4 * head.count(0) > len(head):
        order = "le" if head[1::2].count(0) > head[::2].count(0) else "be"
        raise UserError(f"{file} has zero bytes and is not {encoding}: set encoding=utf-16-{order} if it is a text")
    return marked or encoding


def check_encoding(encoding: str) -> None:
    """Raise UserError unless Python knows the encoding, as one of texts."""
    try:
        "a".encode(encoding)
    except LookupError as error:
        raise UserError(f"encoding must be one that Python knows, such as utf-8 or gbk, got {encoding!r}") from error


def read_records(file: Path, encoding: str = "utf-8") -> Iterator[tuple[str, Record]]:
    r"""Yield the records of a file, each with its place: ``line 3``, or ``item 3`` of an array.

    Args:
        file: ``.csv`` (separated by commas, semicolons, tabs or bars) or ``.tsv`` with the names of the columns in the
            first line; ``.tsv`` as OCTIS writes it, text, split and label without names; ``.jsonl``, ``.ndjson`` or
            ``.json``, an object in each line or an array of objects; ``.txt``, a text in each line. Any of these may
            be compressed: ``.csv.gz``, ``.bz2``, ``.xz``, ``.zip``.
        encoding: Encoding of the file.

    In a tsv file each line is a row if all lines have the same number of tabs; then a field may start with a quotation
    mark that is not closed. Other tables are quoted like csv.

    Raises:
        UserError: If the file cannot be read; it names the line.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "corpus.tsv"
        >>> _ = file.write_text("a cat\ttrain\tpets\n")
        >>> list(read_records(file))
        [('line 1', {'text': 'a cat', 'split': 'train', 'label': 'pets'})]
    """
    match kind_of(file):
        case ".csv" | ".tsv" as kind:
            yield from read_table(file, encoding, kind)
        case ".txt":
            yield from ((f"line {n}", {"text": line}) for n, line in enumerate(read_lines(file, encoding), start=1))
        case _:
            yield from read_objects(file, encoding)


def kind_of(file: Path) -> str:
    """Return the extension of a text file, without that of its compression.

    Raises:
        UserError: If it is not one of ``EXTENSIONS``.
    """
    name = Path(file.name.lower())
    kind = (name.with_suffix("") if name.suffix in OPENERS else name).suffix
    if kind not in EXTENSIONS:
        raise UserError(f"{file} must be one of {', '.join(EXTENSIONS)}, or one of these with {', '.join(OPENERS)}")
    return kind


def read_table(file: Path, encoding: str, kind: str) -> Iterator[tuple[str, Record]]:
    """Yield the rows of a csv or tsv file."""
    first = next(read_lines(file, encoding), "").rstrip("\r\n")
    separator = "\t" if kind == ".tsv" else max(",;\t|", key=first.count)
    columns = len(first.split("\t") if kind == ".tsv" else next(csv.reader([first], delimiter=separator), []))
    is_octis = kind == ".tsv" and 2 <= columns <= 3 and first.split("\t")[1].lower() in SPLIT_OF
    lines = (split_line(line, separator, columns) for line in read_lines(file, encoding))
    lines_are_rows = columns > 1 and all(len(row) in (0, columns) for row in lines)
    if kind == ".tsv" and (lines_are_rows or is_octis):
        lines = (split_line(line, separator, columns) for line in read_lines(file, encoding))
        rows: Iterator[tuple[int, list[str]]] = enumerate(lines, start=1)
    else:
        rows = quoted_rows(file, encoding, separator, lines_are_rows)
    _, header = (0, OCTIS[:columns]) if is_octis else next(rows, (1, []))
    names = [name.strip() for name in header]
    twice = next((name for name in names if name and names.count(name) > 1), None)  # a data frame's index has no name
    if twice is not None:
        raise UserError(f"{file} has several columns {twice!r:.40}: rename all but one in its first line")
    for number, row in rows:
        if row and len(row) != len(names):
            raise UserError(
                f"{file} has {len(row)} fields in line {number}, but {len(names)} columns: put quotes around fields "
                "that contain the separator"
            )
        if row:
            yield f"line {number}", dict(zip(names, row, strict=True))


def quoted_rows(file: Path, encoding: str, separator: str, lines_are_rows: bool) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a table that is quoted like csv, each with the number of its last line.

    Raises:
        UserError: If quotes do not match, or a quoted field seems to contain other rows. Commas are frequent in texts,
            so with these only if all lines are rows by themselves.
    """
    csv.field_size_limit(LONGEST)
    rows, start = csv.reader(read_lines(file, encoding), delimiter=separator, strict=True), 1
    try:
        for row in rows:
            is_nested = separator != "," and any(separator in field for field in row)
            if rows.line_num > start and (lines_are_rows or is_nested):
                raise UserError(
                    f"{file} has a quoted field in the lines {start} to {rows.line_num}, which may be rows: write "
                    "quotes within a field twice, or save the file as jsonl"
                )
            yield rows.line_num, row
            start = rows.line_num + 1
    except csv.Error as error:
        message = f"{file} cannot be read from line {start} on ({error}): write quotes within a field twice"
        raise UserError(message) from error


def split_line(line: str, separator: str, columns: int) -> list[str]:
    r"""Return the fields of a line, none of an empty one; quotes count if the line then has ``columns`` fields.

    Example:
        >>> split_line('"Say ""hi"" now"\tnews', "\t", 2), split_line('"Leave\tnews', "\t", 2)
        (['Say "hi" now', 'news'], ['"Leave', 'news'])
    """
    line = line.rstrip("\r\n")
    try:
        (row,) = csv.reader([line], delimiter=separator, strict=True) if '"' in line else [[]]
    except csv.Error:
        row = []
    return row if len(row) == columns else line.split(separator) if line else []


def read_objects(file: Path, encoding: str) -> Iterator[tuple[str, Record]]:
    """Yield the objects of a JSON file: of its array, or of its lines."""
    filled = ((number, line) for number, line in enumerate(read_lines(file, encoding), start=1) if line.strip())
    number, first = next(filled, (1, "[]"))
    if first.lstrip().startswith("["):
        array = parse(file, number, first + "".join(line for _, line in filled))
        places = ((f"item {number}", item) for number, item in enumerate(array, start=1))
    else:
        places = ((f"line {n}", parse(file, n, line)) for n, line in chain([(number, first)], filled))
    for place, record in places:
        if not isinstance(record, dict):
            raise UserError(f'{file} has no object in {place}: write each as {{"text": "..."}}')
        yield place, record


def parse(file: Path, number: int, text: str) -> Any:
    """Return the value of a JSON text that starts in a line; NaN, which Python writes for a missing value, is null."""
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is no JSON in line {number} ({error}): write one object in each line") from error
