"""Records of csv, tsv, JSON and txt files, as they are or compressed."""

import csv
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from vqlab.data.split_folders import SPLIT_OF
from vqlab.data.text.open_text import OPENERS, read_lines
from vqlab.errors import UserError

EXTENSIONS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt")
OCTIS = ["text", "split", "label"]  # the columns of its corpus.tsv, which does not name them

Record = dict[str, Any]  # name of a column -> value
LONGEST = 2**31 - 1  # characters of a field; the csv module's own limit of 131,072 is less than a book has


def read_records(file: Path, encoding: str = "utf-8") -> Iterator[tuple[str, Record]]:
    r"""Yield the records of a file, each with its place: ``line 3``, or ``item 3`` of an array.

    Args:
        file: ``.csv`` (separated by commas, semicolons, tabs or bars) or ``.tsv`` with the names of the columns in the
            first line; ``.tsv`` as OCTIS writes it, text, split and label without names; ``.jsonl``, ``.ndjson`` or
            ``.json``, an object in each line or an array of objects; ``.txt``, a text in each line. Any of these may
            be compressed: ``.csv.gz``, ``.bz2``, ``.xz``, ``.zip``.
        encoding: Encoding of the file.

    A tsv file of several columns, in which each line has the tabs of a row, has a row in each line: a field may start
    with a quotation mark that is not closed. Other tables quote as csv does.

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
        case ".csv" | ".tsv":
            yield from read_table(file, encoding)
        case ".jsonl" | ".ndjson" | ".json":
            yield from read_objects(file, encoding)
        case ".txt":
            lines = enumerate(read_lines(file, encoding), start=1)
            yield from ((f"line {number}", {"text": line}) for number, line in lines)


def kind_of(file: Path) -> str:
    """Return the extension of a text file, without that of its compression.

    Raises:
        UserError: If it is another.
    """
    name = Path(file.name.lower())
    kind = (name.with_suffix("") if name.suffix in OPENERS else name).suffix
    if kind not in EXTENSIONS:
        raise UserError(
            f"{file} is none of {', '.join(EXTENSIONS)}, or these with {', '.join(OPENERS)}: set --data.path to such "
            "a file"
        )
    return kind


def read_table(file: Path, encoding: str) -> Iterator[tuple[str, Record]]:
    """Yield the rows of a csv or tsv file."""
    first = next(read_lines(file, encoding), "")
    columns = first.rstrip("\r\n").split("\t")
    if kind_of(file) == ".csv":
        rows = quoted_rows(file, encoding, max(",;\t|", key=first.count))
    elif 2 <= len(columns) <= 3 and columns[1].lower() in SPLIT_OF:
        texts = (line.rstrip("\r\n") for line in read_lines(file, encoding))
        rows = chain([(0, OCTIS[: len(columns)])], enumerate((text.split("\t") if text else [] for text in texts), 1))
    elif rows_are_lines(file, encoding, "\t", len(columns)):
        lines = read_lines(file, encoding)
        rows = enumerate((split_line(line, "\t", len(columns)) for line in lines), start=1)
    else:
        rows = quoted_rows(file, encoding, "\t")
    _, header = next(rows, (1, []))
    names = [name.strip() for name in header]
    twice = next((name for name in names if name and names.count(name) > 1), None)  # a data frame's index has no name
    if twice is not None:
        raise UserError(f"{file} has several columns called {twice!r:.40}: rename all but one in its first line")
    for number, row in rows:
        if row and len(row) != len(names):
            raise UserError(
                f"{file} has {len(row)} fields in line {number}, but {len(names)} columns: correct it, or put quotes "
                "around fields that hold the separator"
            )
        if row:
            yield f"line {number}", dict(zip(names, row, strict=True))


def quoted_rows(file: Path, encoding: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a table that quotes as csv does, each with the number of its last line.

    Raises:
        UserError: If quotes do not fit, or a quoted field takes in lines that are rows by themselves.
    """
    csv.field_size_limit(LONGEST)
    seen: list[str] = []  # the lines of a row

    def noted() -> Iterator[str]:
        for line in read_lines(file, encoding):
            seen.append(line)
            yield line

    rows = csv.reader(noted(), delimiter=separator, strict=True)
    start, columns, ambiguous = 1, 0, None
    try:
        for row in rows:
            columns = columns or len(row)
            shape = separator, columns
            if len(seen) > 1 < columns == len(split_line(seen[0], *shape)) == len(split_line(seen[-1], *shape)):
                if ambiguous is None:  # commas are frequent in texts, so that all lines must be rows
                    ambiguous = separator != "," or rows_are_lines(file, encoding, separator, columns)
                if ambiguous:
                    raise UserError(
                        f"{file} has a quoted field from line {start} to {rows.line_num}, whose first and last line "
                        "are rows by themselves: write quotes within a field twice, or save the file as jsonl"
                    )
            yield rows.line_num, row
            start = rows.line_num + 1
            seen.clear()
    except csv.Error as error:
        raise UserError(
            f"{file} cannot be read from line {start} on ({error}): write quotes within a field twice"
        ) from error


def rows_are_lines(file: Path, encoding: str, separator: str, columns: int) -> bool:
    """Whether each line of a table of several columns is a row by itself, whatever is in quotes."""
    return columns > 1 and all(
        len(split_line(line, separator, columns)) in (0, columns) for line in read_lines(file, encoding)
    )


def split_line(line: str, separator: str, columns: int) -> list[str]:
    r"""Return the fields of one line, none of an empty one; quotes count where so many ``columns`` are found by them.

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
    lines = enumerate(read_lines(file, encoding), start=1)
    filled = ((number, line) for number, line in lines if line.strip())
    number, first = next(filled, (1, "[]"))
    if first.lstrip().startswith("["):
        items = parse(file, number, first + "".join(line for _, line in filled))
        places = ((f"item {number}", item) for number, item in enumerate(items, start=1))
    else:
        objects = chain([(number, first)], filled)
        places = ((f"line {number}", parse(file, number, line)) for number, line in objects)
    for place, record in places:
        if not isinstance(record, dict):
            raise UserError(f'{file} has no object in {place}: write each as {{"text": "..."}}')
        yield place, record


def parse(file: Path, number: int, text: str) -> Any:
    """Return the value of a JSON text that starts in a line; NaN, which Python's writer makes of no value, is null."""
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file} is no JSON in line {number} ({error}): correct or remove it; one object is in one line"
        ) from error
