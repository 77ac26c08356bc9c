"""Documents from tables and lists of them."""

import csv
import json
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec

from vqlab.data.files import reading
from vqlab.data.split_folders import SPLIT_OF
from vqlab.data.text.raw import Document, RawTextDataModule
from vqlab.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

KINDS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt")
COMPRESSED = (".gz", ".bz2", ".xz", ".zip")
OCTIS = ["text", "split", "label"]  # the columns of its corpus.tsv, which does not name them
# Names of the columns, in capitals or not, where the user gives none.
USUAL = {
    "text": ("text", "document", "content", "body"),
    "label": ("label", "class", "category", "target"),
    "split": ("split", "partition"),
}


class TextFile(RawTextDataModule):
    r"""Documents in the rows of csv and tsv files, the objects of JSON files, or the lines of txt files.

    JSON files (``.jsonl``, ``.ndjson``, ``.json``) hold an object in each line, or an array of objects. A text may be a
    list of words; null is an empty document. Files may be compressed (``.gz``, ``.bz2``, ``.xz``, ``.zip``). A tsv file
    whose first line has a split in its second column is one of OCTIS: text, split and label, with no names above.

    Splits are those of the column ``split`` (train, val or valid or dev, test or eval), else ``path`` is for training
    and ``test_path`` for test, else all are drawn by ``seed``.

    Args:
        path: A file, or a list of files.
        test_path: A file with test documents.
        text_column: Column with the text. Default: ``text``, ``document``, ``content`` or ``body``. In JSON files
            ``data.text`` is the key ``text`` within ``data``, also for the other columns.
        label_column: Column with the class. Default: ``label``, ``class``, ``category`` or ``target``, if there.
        split_column: Column with the split. Default: ``split`` or ``partition``, if there.
        encoding: Encoding of the files, such as ``cp1252``, ``gbk`` or ``utf-16``.
        **common: Arguments of :class:`~vqlab.data.text.raw.RawTextDataModule`.

    Raises:
        UserError: If a file is missing, damaged or not in ``encoding``, or has no such column.

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
        """Yield the documents of each file in its order."""
        for split, file in self._files:
            with reading(file, "cannot be read ({reason}): correct it, or set encoding=cp1252, gbk or what it is"):
                table = read_table(file, self.encoding)
            values = {what: self._values(table, what, file) for what in self.columns}
            for number, (text, label, place) in enumerate(zip(*values.values(), strict=True), start=1):
                text = " ".join(map(str, text)) if isinstance(text, list) else "" if is_missing(text) else text
                if not isinstance(text, str):
                    raise UserError(
                        f"{file}, record {number}: the text must be words, got {text!r:.40}: set text_column"
                    )
                own_split = split if is_missing(place) else SPLIT_OF.get(str(place).lower())
                if own_split is None and not is_missing(place):
                    raise UserError(
                        f"{file}, record {number}: the split must be train, val or test, got {place!r:.40}: set "
                        "split_column=NAME if this column means something else"
                    )
                # The integers of a column with gaps are 1.0 in a data frame.
                name = None if is_missing(label) else re.sub(r"^(-?\d+)\.0$", r"\1", str(label))
                yield Document(text, name, own_split)

    def _values(self, table: "pd.DataFrame", what: str, file: str) -> Iterable[Any]:
        """Return the texts, labels or splits of a table, None for all where it has no such column."""
        name = self.columns[what]
        lower = {column.lower(): column for column in reversed(table.columns)}
        column = name or next((lower[usual] for usual in USUAL[what] if usual in lower), None)
        if column in table:
            return table[column].tolist()
        if name is None and what != "text":
            return [None] * len(table)
        columns = ", ".join(f"{column:.30}" for column in table.columns[:6])
        raise UserError(
            f"{file} has no column {name or what}, but {columns}: set {what}_column=NAME to one of these; a table must "
            "have a first line with the names of its columns"
        )


def kind_of(file: str) -> str | None:
    """Return the extension of a text file, without that of its compression; None for other files."""
    *_, last_but_one, last = ["", "", *Path(file.lower()).suffixes]
    kind = last_but_one if last in COMPRESSED else last
    return kind if kind in KINDS else None


def read_table(file: str, encoding: str) -> "pd.DataFrame":
    """Return the records of a file as rows; fields of csv and tsv are strings."""
    import pandas as pd  # takes half a second to import

    encoding = "utf-8-sig" if encoding == "utf-8" else encoding  # with a byte order mark or without
    kind = kind_of(file)
    with fsspec.open(file, "rt", encoding=encoding, compression="infer", newline="") as lines:
        if kind == ".txt":
            return pd.DataFrame({"text": [*lines]})
        if kind not in (".csv", ".tsv"):
            return pd.json_normalize(read_objects(lines))
        first = lines.readline()
    separator = "\t" if kind == ".tsv" else max(",;\t|", key=first.count)
    fields = first.rstrip().split("\t")
    options: dict[str, Any] = {}
    if kind == ".tsv" and 2 <= len(fields) <= 3 and fields[1].lower() in SPLIT_OF:
        options = {"names": OCTIS[: len(fields)], "header": None, "quoting": csv.QUOTE_NONE}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of fields beyond the names
        table = pd.read_csv(
            file, sep=separator, dtype=str, keep_default_na=False, index_col=False, encoding=encoding, **options
        )
    if separator != "," and any(table[name].str.contains(rf"\n.*\{separator}").any() for name in table):
        raise ValueError("a quoted field holds other rows: write quotes within a field twice, or save it as jsonl")
    return table.rename(columns=str.strip)


def read_objects(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Return the objects of a JSON file: of its array, or of its lines."""
    filled = [line for line in lines if line.strip()]
    if filled and filled[0].lstrip().startswith("["):
        return json.loads("".join(filled))
    return json.loads(f"[{','.join(filled)}]")  # at once, so that an error names the line


def is_missing(value: Any) -> bool:
    """Whether a field is empty, null or NaN."""
    return value is None or value == "" or value != value
