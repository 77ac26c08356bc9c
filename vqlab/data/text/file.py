"""Documents from tables and lists of them."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vqlab.data.split_folders import SPLIT_OF
from vqlab.data.text.open_text import require_encoding
from vqlab.data.text.raw import Document, RawTextDataModule
from vqlab.data.text.records import Record, kind_of, read_records
from vqlab.errors import UserError

# What a column may be called where the user does not say, in capitals or not.
USUAL = {
    "text": ("text", "document", "content", "body"),
    "label": ("label", "class", "category", "target"),
    "split": ("split", "partition"),
}
MISSING = object()


class TextFile(RawTextDataModule):
    r"""Documents in the rows of csv and tsv files, the objects of JSON files, or the lines of txt files.

    JSON files (``.jsonl``, ``.ndjson``, ``.json``) hold an object in each line, or an array of them. A text may be a
    list of words; null is an empty document. Files may be compressed (``.gz``, ``.bz2``, ``.xz``, ``.zip``).

    A tsv file whose first line has a split in its second column is one of OCTIS: text, split and label, with no names
    above; give its ``vocabulary.txt`` as ``vocabulary_path``. Splits are those of the column ``split`` (train, val or
    valid or dev, test or eval), else ``path`` is for training and ``test_path`` for test, else all are drawn by
    ``seed``.

    Args:
        path: A file, or a list of files.
        test_path: A file with test documents.
        text_column: Column with the text. Default: ``text``, ``document``, ``content`` or ``body``. In JSON files
            ``data.text`` is the key ``text`` within ``data``; so it is for the other columns.
        label_column: Column with the class; null takes ``label``, ``class``, ``category`` or ``target``, if there.
        split_column: Column with the split; null takes ``split`` or ``partition``, if there.
        encoding: Encoding of the files, such as ``cp1252`` or ``gbk``; a byte order mark takes precedence.
        **common: ``val_fraction``, ``test_fraction``, ``token_pattern``, ``min_df``, ``max_df``, ``max_vocab``,
            ``stop_words``, ``vocabulary_path``, ``batch_size``, ``weighting``, ``num_workers``, ``seed``: see
            :class:`~vqlab.data.text.raw.RawTextDataModule`.

    Shape:
        See :class:`~vqlab.data.text.base.TextDataModule`.

    Raises:
        UserError: If a file is missing, damaged or not in ``encoding``, or has no such column, or several.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "pets.csv"
        >>> _ = file.write_text("body,class\n" + '"A cat, asleep.",cat\nA dog barks.,dog\n' * 10)
        >>> data = TextFile(str(file), min_df=1, batch_size=4)
        >>> data.vocabulary, data.class_names, data.train_size
        (['asleep', 'barks', 'cat', 'dog'], ['cat', 'dog'], 16)
    """

    test_mend = "set --data.test_path or --data.test_fraction, or use `vqlab validate`"

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
        require_encoding(encoding)
        self.path, self.encoding = path, encoding
        self.columns = {"text": text_column or None, "label": label_column or None, "split": split_column or None}
        paths = [path] if isinstance(path, str) else path
        if not paths:
            raise UserError("path is empty: set --data.path to a file")
        split = None if test_path is None else "train"
        self._files = [(split, check_file(name, "path")) for name in paths]
        if test_path is not None:
            self._files.append(("test", check_file(test_path, "test_path")))

    def read(self) -> Iterator[Document]:
        """Yield the documents of each file in its order."""
        for split, file in self._files:
            columns: dict[str, str] = {}
            names = None
            for place, record in read_records(file, self.encoding):
                if record.keys() != names:
                    names = record.keys()
                    columns = find_columns(file, place, record, self.columns, columns)
                yield to_document(file, place, record, columns, split)
            for what, name in self.columns.items():
                if names and name is not None and what not in columns:
                    raise no_column(file, name, names, what)


def check_file(path: str, setting: str) -> Path:
    """Return a file of a kind that is read."""
    if Path(path).is_dir():
        raise UserError(
            f"{path} is a folder, not a file: set --data.{setting} to a file in it, or read all of its files by "
            "--data=TextFolder"
        )
    if not Path(path).is_file():
        raise UserError(f"{path} is not a file: set --data.{setting} to a csv, tsv, jsonl or txt file")
    kind_of(Path(path))
    return Path(path)


def find_columns(
    file: Path, place: str, record: Record, wanted: dict[str, str | None], known: dict[str, str]
) -> dict[str, str]:
    """Return which columns of a file hold text, label and split, by the names in a record.

    Args:
        file: The file.
        place: The record's place in it.
        record: The first record, or one with other names than the record before.
        wanted: The column of each as the user gives it, or None.
        known: What the records before have shown.

    Raises:
        UserError: If none may hold the text, several may hold the same, or others did before.
    """
    found = dict(known)
    for what, name in wanted.items():
        if name is None:
            usual = ([column for column in record if column.lower() == one] for one in USUAL[what])
            there = next(filter(None, usual), [])
        else:
            there = [] if value_of(record, name) is MISSING else [name]
        if len(there) > 1:
            raise UserError(f"{file} has the columns {' and '.join(there)}: set --data.{what}_column to one of these")
        if there and found.setdefault(what, there[0]) != there[0]:
            raise UserError(
                f"{file} has its {what} under {there[0]} in {place}, but under {found[what]} before: set "
                f"--data.{what}_column"
            )
    if "text" not in found:
        raise no_column(file, wanted["text"] or "text", record, "text")
    return found


def no_column(file: Path, name: str, columns: Iterable[str], what: str) -> UserError:
    """Return what to say of a file without a column."""
    names = [shown if len(shown) <= 30 else f"{shown[:27]}..." for shown in columns]
    some = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    table = kind_of(file) in (".csv", ".tsv")
    header = ", or give the file a first line with the names of its columns" if table else ""
    return UserError(f"{file} has no column {name}, but {some}: set --data.{what}_column to one of these{header}")


def value_of(record: Record, column: str) -> Any:
    """Return what a record holds under a column, or under the keys of ``data.text``; MISSING if there is none."""
    if column in record:
        return record[column]
    value: Any = record
    for key in column.split("."):
        value = value.get(key, MISSING) if isinstance(value, dict) else MISSING
    return value


def to_document(file: Path, place: str, record: Record, columns: dict[str, str], split: str | None) -> Document:
    """Return the document that a record holds.

    Raises:
        UserError: If it has no text, its label is no single value, or its split is unknown.
    """
    text = value_of(record, columns["text"])
    if isinstance(text, list) and all(isinstance(word, str) for word in text):
        text = " ".join(text)
    if text is not None and not isinstance(text, str):
        shown = None if text is MISSING else text
        raise UserError(
            f"{file} has no text under {columns['text']} in {place}, but {shown!r:.40}: correct or remove it, or set "
            "--data.text_column"
        )
    label = value_of(record, columns["label"]) if "label" in columns else None
    if isinstance(label, list | dict):
        raise UserError(
            f"{file} has no class under {columns['label']} in {place}, but {label!r:.40}: write one name or number "
            "there, or set --data.label_column"
        )
    if "split" in columns:
        value = value_of(record, columns["split"])
        value = None if value is MISSING else value
        split = SPLIT_OF.get(str(value).lower())
        if split is None:
            raise UserError(
                f"{file} has the split {str(value)!r:.40} in {place}: write train, val or test there, or "
                "rename the column if it means something else (--data.split_column)"
            )
    # A data frame writes the numbers of a column with gaps as 1.0.
    name = None if label in (None, "", MISSING) else re.sub(r"^(-?\d+)\.0$", r"\1", str(label))
    return Document(text or "", name, split)
