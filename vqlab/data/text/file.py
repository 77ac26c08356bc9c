"""Documents from tables, lists and folders of text files."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec

from vqlab.data.files import counted, reading
from vqlab.data.split_folders import SPLIT_OF, split_folders
from vqlab.data.text.raw import Document, RawTextDataModule
from vqlab.errors import UserError

KINDS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt")
COMPRESSED = (".gz", ".bz2", ".xz", ".zip")
OCTIS = ["text", "split", "label"]  # columns of its corpus.tsv, which has no line of names
# Default names of the columns, in lower or upper case.
USUAL = {
    "text": ("text", "document", "content", "body"),
    "label": ("label", "class", "category", "target"),
    "split": ("split", "partition"),
}


class TextFile(RawTextDataModule):
    r"""Documents in the rows of csv and tsv files, the objects of JSON files, or the lines of txt files.

    JSON files (``.jsonl``, ``.ndjson``, ``.json``) hold an object in each line, or an array of objects; a text may be a
    list of words. Files may be compressed. A tsv file with a split in the second column of its first line is one of
    OCTIS, without names. The column ``split`` gives the splits. Without it, ``path`` is for training and ``test_path``
    for test; without both, the splits are drawn by ``seed``.

    Args:
        path: A file, or a list of files.
        test_path: A file with test documents.
        text_column: Column with the text, in JSON files also ``key.within``. Default: ``text``, ``document``,
            ``content`` or ``body``.
        label_column: Column with the class. Default: ``label``, ``class``, ``category`` or ``target``, if there.
        split_column: Column with the split. Default: ``split`` or ``partition``, if there.
        encoding: Encoding of the files, such as ``cp1252``, ``gbk`` or ``utf-16``.
        **common: Arguments of :class:`~vqlab.data.text.raw.RawTextDataModule`.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "pets.csv"
        >>> _ = file.write_text("body,class\n" + '"A cat, asleep.",cat\nA dog barks.,dog\n' * 10)
        >>> data = TextFile(str(file), min_df=1, batch_size=4)
        >>> data.vocabulary, data.class_names, data.train_size
        (['asleep', 'barks', 'cat', 'dog'], ['cat', 'dog'], 16)
    """

    def __init__(
        self,
        path: str | list[str],
        test_path: str | None = None,
        text_column: str | None = None,
        label_column: str | None = None,
        split_column: str | None = None,
        encoding: str = "utf-8",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.path, self.encoding = path, encoding
        self.columns = {"text": text_column or None, "label": label_column or None, "split": split_column or None}
        paths = [path] if isinstance(path, str) else path
        self._files = [(None if test_path is None else "train", file) for file in paths]
        self._files += [] if test_path is None else [("test", test_path)]
        for _, file in self._files:
            if not Path(file).is_file() or kind_of(file) is None:
                ends = f"{', '.join(KINDS)}, compressed or not"
                raise UserError(f"path must name files with {ends}, got {file}: a folder is read by --data=TextFolder")

    def read(self) -> Iterator[Document]:
        for split, file in self._files:
            with reading(file, "cannot be read ({reason}): correct it, or set encoding=cp1252, gbk or what it is"):
                table = read_table(file, self.encoding)
            columns = [self._column(table, what, file) for what in self.columns]
            for number, (text, label, place) in enumerate(zip(*columns, strict=True), start=1):
                where = f"{file}, record {number}"
                text = " ".join(map(str, text)) if isinstance(text, list) else text or ""
                if not isinstance(text, str):
                    raise UserError(f"{where}: the text must be words, got {text!r:.40}: set text_column")
                own_split = split if place in (None, "") else SPLIT_OF.get(str(place).lower(), "")
                if own_split == "":
                    raise UserError(
                        f"{where}: the split must be train, val or test, got {place!r:.40}: set split_column"
                    )
                # pandas turns the integers of a column with gaps into floats.
                name = None if label in (None, "") else re.sub(r"^(-?\d+)\.0$", r"\1", str(label))
                yield Document(text, name, own_split)

    def _column(self, table: dict[Any, list[Any]], what: str, file: str) -> list[Any]:
        """Return the texts, labels or splits of a table, None for all if it has no such column."""
        name = self.columns[what]
        lower = {column.lower(): column for column in reversed(table)}
        column = name or next((lower[usual] for usual in USUAL[what] if usual in lower), None)
        if column in table:
            return table[column]
        if name is None and what != "text":
            return [None] * len(next(iter(table.values())))
        columns = ", ".join(f"{column:.30}" for column in [*table][:6])
        raise UserError(
            f"{file} has no column {name or what}, but {columns}: set {what}_column=NAME to one of these; a table must "
            "have a first line with the names of its columns"
        )


class TextFolder(RawTextDataModule):
    """A folder with text files at any depth and of any extension, one document each, compressed or not.

    Folders ``path/train``, ``path/val`` and ``path/test`` (other usual names work, too) are the splits; missing ones
    are drawn by ``seed``. The label is the name of the first-level folder (of a split), if there are at least two.

    Args:
        path: The folder.
        encoding: Encoding of the files, such as ``cp1252``, ``gbk`` or ``utf-16``.
        **common: Arguments of :class:`~vqlab.data.text.raw.RawTextDataModule`.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for number in range(10):
        ...     _ = (folder / f"{number}.txt").write_text("cat and dog")
        >>> TextFolder(str(folder), min_df=1, max_df=1.0, batch_size=2).train_size
        8
    """

    def __init__(self, path: str, encoding: str = "utf-8", **common: Any) -> None:
        super().__init__(**common)
        self.path, self.encoding = path, encoding
        self._roots, self._files = split_folders(Path(path), ("",), "text files")

    def read(self) -> Iterator[Document]:
        files = [(split, file) for split, group in self._files.items() for file in group]
        for split, file in counted(files, len(files), "read", "files"):
            with (
                reading(file, "cannot be read ({reason}): leave it out, or set encoding=cp1252, gbk or what it is"),
                fsspec.open(str(file), "rt", encoding=self.encoding, compression="infer") as opened,
            ):
                text = opened.read()
            folder = file.relative_to(self._roots[split]).parts[0]
            yield Document(text, folder if file.parent != self._roots[split] else None, split or None)


def kind_of(file: str) -> str | None:
    """Return the extension of a text file, without that of its compression; None for other files."""
    *_, last_but_one, last = ["", "", *Path(file.lower()).suffixes]
    kind = last_but_one if last in COMPRESSED else last
    return kind if kind in KINDS else None


def read_table(file: str, encoding: str) -> dict[Any, list[Any]]:
    """Return the columns of a file by name; fields of csv and tsv are strings."""
    encoding = "utf-8-sig" if encoding == "utf-8" else encoding  # with a byte order mark or without
    with fsspec.open(file, "rt", encoding=encoding, compression="infer", newline="") as opened:
        lines = [*opened]
    filled, kind = [line for line in lines if line.strip()], kind_of(file)
    if not filled:
        raise ValueError("it is empty")
    if kind == ".txt":
        return {"text": lines}
    if kind in (".csv", ".tsv"):
        return read_rows(lines, filled, "\t" if kind == ".tsv" else max(",;\t|", key=filled[0].count))
    import pandas as pd  # takes half a second to import

    is_array = filled[0].lstrip().startswith("[")
    # All lines at once, so that an error names the line.
    table = pd.json_normalize(json.loads("".join(filled) if is_array else f"[{','.join(filled)}]")).astype(object)
    return table.where(table.notna(), None).to_dict("list")


def read_rows(lines: list[str], filled: list[str], separator: str) -> dict[Any, list[str]]:
    """Return the columns of csv or tsv lines; ValueError if rows differ in length or a field contains other rows."""
    first = filled[0].rstrip("\r\n").split("\t")
    is_octis = separator == "\t" and 2 <= len(first) <= 3 and first[1].lower() in SPLIT_OF
    csv.field_size_limit(2**31 - 1)  # characters of a text
    dialect: Any = {"delimiter": separator, "quoting": csv.QUOTE_NONE if is_octis else csv.QUOTE_MINIMAL}
    *read, end = csv.reader([*lines, "end"], **dialect)
    rows = [row for row in read if len(row) > 1 or "".join(row).strip()]
    names = OCTIS[: len(first)] if is_octis else [name.strip() for name in rows[0]]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            hint = "put quotes around fields that contain the separator"
            raise ValueError(f"row {number} has {len(row)} fields of {len(names)}: {hint}")
    if end != ["end"]:
        raise ValueError("a quote is never closed: write quotes within a field twice, or save it as jsonl")
    alone = (len(next(csv.reader([line], delimiter=separator))) for line in filled)
    numbers = ((line.count(separator) + 1, count) for line, count in zip(filled, alone, strict=True))
    if len(filled) > len(rows) and len(names) > 1 and all(len(names) in fields for fields in numbers):
        raise ValueError("a quoted field contains other rows: write quotes within a field twice, or save it as jsonl")
    return {name: [row[i] for row in rows[not is_octis :]] for i, name in enumerate(names)}
