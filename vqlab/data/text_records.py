"""Records of csv, tsv, jsonl and txt files, as they are or compressed by gzip."""

import codecs
import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from vqlab.data.split_folders import SPLIT_OF
from vqlab.errors import UserError

EXTENSIONS = (".csv", ".tsv", ".jsonl", ".txt")
OCTIS = ["text", "split", "label"]  # the columns of its corpus.tsv, which does not name them

Record = dict[str, Any]  # name of a column -> value
LONGEST = 2**31 - 1  # characters of a field; the csv module's own limit of 131,072 is less than a book has


def read_records(file: Path, encoding: str = "utf-8") -> Iterator[tuple[int, Record]]:
    r"""Yield the records of a file, each with the number of its (last) line.

    Args:
        file: ``.csv`` (separated by commas, semicolons or tabs) or ``.tsv`` with the names of the columns in the first
            line; ``.tsv`` as OCTIS writes it, text, split and label without names; ``.jsonl``, an object in each line;
            ``.txt``, a text in each line. Any of these may be compressed: ``.csv.gz``.
        encoding: Encoding of the file.

    Raises:
        UserError: If the file cannot be read; it names the line.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "corpus.tsv"
        >>> _ = file.write_text("a cat\ttrain\tpets\n")
        >>> list(read_records(file))
        [(1, {'text': 'a cat', 'split': 'train', 'label': 'pets'})]
    """
    lines = read_lines(file, encoding)
    match kind_of(file):
        case ".csv" | ".tsv":
            yield from read_table(file, lines)
        case ".jsonl":
            yield from read_objects(file, lines)
        case ".txt":
            yield from ((number, {"text": line}) for number, line in enumerate(lines, start=1))


def kind_of(file: Path) -> str:
    """Return the extension of a text file, without ``.gz``.

    Raises:
        UserError: If it is another.
    """
    kind = Path(file.name.lower().removesuffix(".gz")).suffix
    if kind not in EXTENSIONS:
        raise UserError(f"{file} is none of {', '.join(EXTENSIONS)}, or these with .gz: set --data.path to such a file")
    return kind


def require_encoding(encoding: str) -> None:
    """Raise UserError unless Python knows the encoding."""
    try:
        codecs.lookup(encoding)
    except LookupError as error:
        raise UserError(f"encoding {encoding!r} is unknown: set --data.encoding=utf-8") from error


def read_lines(file: Path, encoding: str) -> Iterator[str]:
    """Yield the lines of a file with their ends."""
    if codecs.lookup(encoding).name == "utf-8":
        encoding = "utf-8-sig"  # some programs put a mark before the first letter
    opened: Any = gzip.open if file.name.lower().endswith(".gz") else open
    number = 0
    try:
        with opened(file, "rt", encoding=encoding, newline="") as lines:
            for line in lines:
                yield line
                number += 1
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not {encoding.removesuffix('-sig')} after line {number}: save it as that, or set "
            "--data.encoding=latin-1"
        ) from error
    except MemoryError as error:
        raise UserError(
            f"{file} has more in line {number + 1} than memory holds: break the line, or leave it out"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file} is damaged after line {number} ({reason}): write or download it anew") from error


def read_table(file: Path, lines: Iterator[str]) -> Iterator[tuple[int, Record]]:
    """Yield the rows of a csv or tsv file."""
    csv.field_size_limit(LONGEST)
    kind, first = kind_of(file), next(lines, "")
    fields = first.rstrip("\r\n").split("\t")
    octis = kind == ".tsv" and 2 <= len(fields) <= 3 and fields[1].lower() in SPLIT_OF
    separator = next((sign for sign in ",;\t" if sign in first), ",") if kind == ".csv" else "\t"
    rows = csv.reader(
        chain([first], lines),
        delimiter=separator,
        quoting=csv.QUOTE_NONE if octis else csv.QUOTE_MINIMAL,
        strict=True,
    )
    try:
        names = OCTIS[: len(fields)] if octis else [name.strip() for name in next(rows, [])]
        for row in rows:
            if row and len(row) != len(names):
                raise UserError(
                    f"{file} has {len(row)} fields in line {rows.line_num}, but {len(names)} columns: mend it, or put "
                    "quotes around fields that hold the separator"
                )
            if row:
                yield rows.line_num, dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{file} cannot be read in line {rows.line_num} ({error}): write quotes within a field twice"
        ) from error


def read_objects(file: Path, lines: Iterator[str]) -> Iterator[tuple[int, Record]]:
    """Yield the objects of a jsonl file."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{file} is no JSON in line {number} ({error}): mend or remove the line") from error
        if not isinstance(record, dict):
            raise UserError(f'{file} has no object in line {number}: write each line as {{"text": "..."}}')
        yield number, record
