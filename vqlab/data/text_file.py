"""Documents from tables and lists of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vqlab.data.raw_text import Document, RawTextDataModule
from vqlab.data.split_folders import SPLIT_OF
from vqlab.data.text_records import Record, kind_of, read_records, require_encoding
from vqlab.errors import UserError

# What a column may be called where the user does not say, in capitals or not.
USUAL = {
    "text": ("text", "document", "content", "body"),
    "label": ("label", "class", "category", "target"),
    "split": ("split", "partition"),
}


class TextFile(RawTextDataModule):
    r"""Documents in the rows of csv and tsv files, the objects of jsonl files, or the lines of txt files.

    Files may be compressed (``.jsonl.gz``). A tsv file whose first line has a split in its second column is one of
    OCTIS: text, split and label, with no names above; give its ``vocabulary.txt`` as ``vocabulary_path``. Splits are
    those of the column ``split`` (train, val or valid or dev, test or eval), else ``path`` is for training and
    ``test_path`` for test, else all are drawn by ``seed``.

    Args:
        path: A file, or a list of files.
        test_path: A file with test documents.
        text_column: Column with the text; null takes ``text``, ``document``, ``content`` or ``body``.
        label_column: Column with the class; null takes ``label``, ``class``, ``category`` or ``target``, if there.
        split_column: Column with the split; null takes ``split`` or ``partition``, if there.
        encoding: Encoding of the files, such as ``latin-1``.
        **common: ``val_fraction``, ``test_fraction``, ``token_pattern``, ``min_df``, ``max_df``, ``max_vocab``,
            ``stop_words``, ``vocabulary_path``, ``batch_size``, ``weighting``, ``num_workers``, ``seed``: see
            :class:`~vqlab.data.raw_text.RawTextDataModule`.

    Shape:
        See :class:`~vqlab.data.text.TextDataModule`.

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
        self.columns = {"text": text_column, "label": label_column, "split": split_column}
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
            columns = None
            for line, record in read_records(file, self.encoding):
                columns = columns or find_columns(file, record, self.columns)
                yield to_document(file, line, record, columns, split)


def check_file(path: str, setting: str) -> Path:
    """Return a file of a kind that is read."""
    if not Path(path).is_file():
        raise UserError(f"{path} is not a file: set --data.{setting} to a csv, tsv, jsonl or txt file")
    kind_of(Path(path))
    return Path(path)


def find_columns(file: Path, record: Record, wanted: dict[str, str | None]) -> dict[str, str]:
    """Return which columns of a file hold text, label and split, by the names in its first record.

    Raises:
        UserError: If one that is wanted is not there, or none that may hold the text.
    """
    there = {name.lower(): name for name in reversed(record)}
    found = {}
    for what, name in wanted.items():
        usual = next((there[name] for name in USUAL[what] if name in there), None)
        column = usual if name is None else name
        if column in record:
            found[what] = column
        elif name is not None or what == "text":
            columns = ", ".join(shown if len(shown) <= 30 else f"{shown[:27]}..." for shown in record)
            raise UserError(
                f"{file} has no column {name or what}, but {columns}: set --data.{what}_column to one of these"
            )
    return found


def to_document(file: Path, line: int, record: Record, columns: dict[str, str], split: str | None) -> Document:
    """Return what a record says.

    Raises:
        UserError: If it has no text, or its split is unknown.
    """
    text = record.get(columns["text"])
    if not isinstance(text, str):
        raise UserError(
            f"{file} has no text under {columns['text']} in line {line}, but {text!r:.40}: mend or remove the line, or "
            "set --data.text_column"
        )
    label = record.get(columns.get("label", ""))
    if "split" in columns:
        said = str(record.get(columns["split"]))
        split = SPLIT_OF.get(said.lower())
        if split is None:
            raise UserError(
                f"{file} has the split {said!r:.40} in line {line}: write train, val or test there, or set "
                "--data.split_column"
            )
    return Document(text, None if label in (None, "") else str(label), split)
