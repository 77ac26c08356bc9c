"""Documents from tables and lists of them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vqlab.data.split_folders import SPLIT_OF
from vqlab.data.text.raw import Document, RawTextDataModule
from vqlab.data.text.records import Record, check_encoding, kind_of, read_records
from vqlab.errors import UserError

# Names of the columns, in capitals or not, where the user gives none.
USUAL = {
    "text": ("text", "document", "content", "body"),
    "label": ("label", "class", "category", "target"),
    "split": ("split", "partition"),
}
MISSING = object()


class TextFile(RawTextDataModule):
    r"""Documents in the rows of csv and tsv files, the objects of JSON files, or the lines of txt files.

    JSON files (``.jsonl``, ``.ndjson``, ``.json``) hold an object in each line, or an array of objects. A text may be a
    list of words; null is an empty document. Files may be compressed (``.gz``, ``.bz2``, ``.xz``, ``.zip``).

    A tsv file whose first line has a split in its second column is one of OCTIS: text, split and label, with no names
    above; its ``vocabulary.txt`` is the ``vocabulary_path``. Splits are those of the column ``split`` (train, val or
    valid or dev, test or eval), else ``path`` is for training and ``test_path`` for test, else all are drawn by
    ``seed``.

    Args:
        path: A file, or a list of files.
        test_path: A file with test documents.
        text_column: Column with the text. Default: ``text``, ``document``, ``content`` or ``body``. In JSON files
            ``data.text`` is the key ``text`` within ``data``, also for the other columns.
        label_column: Column with the class. Default: ``label``, ``class``, ``category`` or ``target``, if there.
        split_column: Column with the split. Default: ``split`` or ``partition``, if there.
        encoding: Encoding of the files, such as ``cp1252`` or ``gbk``; a byte order mark takes precedence.
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
        check_encoding(encoding)
        self.path, self.encoding = path, encoding
        self.columns = {"text": text_column or None, "label": label_column or None, "split": split_column or None}
        paths = [path] if isinstance(path, str) else path
        if not paths:
            raise UserError("path must name a file, got an empty list")
        split = None if test_path is None else "train"
        self._files = [(split, check_file(name, "path")) for name in paths]
        if test_path is not None:
            self._files.append(("test", check_file(test_path, "test_path")))

    def read(self) -> Iterator[Document]:
        """Yield the documents of each file in its order."""
        for split, file in self._files:
            seen: set[str] = set()
            record: Record = {}
            for place, record in read_records(file, self.encoding):
                found = {what: find_column(record, what, name) for what, name in self.columns.items()}
                seen.update(what for what, value in found.items() if value is not MISSING)
                if "text" not in seen:
                    raise self._no_column(file, record, "text")
                yield to_document(f"{file}, {place}", found, split)
            for what, name in self.columns.items():
                if record and name is not None and what not in seen:
                    raise self._no_column(file, record, what)

    def _no_column(self, file: Path, record: Record, what: str) -> UserError:
        names = ", ".join(f"{name:.30}" for name in list(record)[:6])
        return UserError(
            f"{file} has no column {self.columns[what] or what}, but {names}: set {what}_column=NAME to one of these; "
            "a table must have a first line with the names of its columns"
        )


def check_file(path: str, setting: str) -> Path:
    """Return a file of a kind that is read."""
    if not Path(path).is_file():
        kind = "a folder, which --data=TextFolder reads" if Path(path).is_dir() else "not there"
        raise UserError(f"{setting} must be a csv, tsv, jsonl or txt file, but {path} is {kind}")
    kind_of(Path(path))
    return Path(path)


def find_column(record: Record, what: str, name: str | None) -> Any:
    """Return the text, label or split in a record; MISSING if there is none.

    Args:
        record: The columns by name.
        what: text, label or split.
        name: The column, or keys of nested objects such as ``data.text``. Default: the first usual name.

    Example:
        >>> find_column({"id": 1, "Body": "A cat."}, "text", None), find_column({"a": {"b": 2}}, "label", "a.b")
        ('A cat.', 2)
    """
    if name is None:
        columns = {column.lower(): column for column in reversed(record)}
        return next((record[columns[usual]] for usual in USUAL[what] if usual in columns), MISSING)
    if name in record:
        return record[name]
    value: Any = record
    for key in name.split("."):
        value = value.get(key, MISSING) if isinstance(value, dict) else MISSING
    return value


def to_document(place: str, found: dict[str, Any], split: str | None) -> Document:
    """Return the document with the ``text``, ``label`` and ``split`` that were found in a record.

    Raises:
        UserError: If it has no text, its label is no single value, or its split is unknown.
    """
    text, label = found["text"], found["label"]
    if isinstance(text, list) and all(isinstance(word, str) for word in text):
        text = " ".join(text)
    if text is not None and not isinstance(text, str):
        got = "nothing" if text is MISSING else f"{text!r:.40}"
        raise UserError(f"{place}: the text must be a string or a list of words, got {got}: set text_column=NAME")
    if isinstance(label, list | dict):
        raise UserError(f"{place}: the label must be one name or number, got {label!r:.40}: set label_column=NAME")
    if found["split"] is not MISSING:
        split = SPLIT_OF.get(str(found["split"]).lower())
        if split is None:
            raise UserError(
                f"{place}: the split must be train, val or test, got {found['split']!r:.40}: correct it, or set "
                "split_column=NAME if this column means something else"
            )
    # A data frame writes the integers of a column with gaps as 1.0.
    name = None if label in (None, "", MISSING) else re.sub(r"^(-?\d+)\.0$", r"\1", str(label))
    return Document(text or "", name, split)
