"""Documents as word counts, without their texts."""

import re
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from scipy.sparse import csr_matrix, load_npz

from vqlab.data.datamodule import ValFraction
from vqlab.data.files import reading
from vqlab.data.text.base import BagsOfWords, Corpus, TextDataModule, split_documents
from vqlab.data.text.raw import read_words
from vqlab.errors import UserError
from vqlab.training.data_format import Format
from vqlab.validation import Probability


class BagOfWords(TextDataModule):
    """Documents as a matrix of counts.

    It may be written by ``scipy.sparse.save_npz`` or NumPy, or be Matrix Market, UCI's ``docword`` or SVMlight.

    Args:
        path: File with the counts (N, V); the three text formats may be compressed.
        labels_path: File with a class number per document, -1 for none: ``.npy``, or ``.txt`` with one a line. Default:
            the labels in an SVMlight file, else none.
        vocabulary_path: File with the words, one a line, V lines. Default: ``word 0``, ``word 1``, ...
        test_path: File with the counts of test documents.
        test_labels_path: File with their class numbers.
        val_fraction: Fraction of the documents for validation.
        test_fraction: Fraction of the documents for test, without ``test_path``; 0 keeps none.
        **common: Arguments of :class:`~vqlab.data.text.base.TextDataModule`.

    Example:
        >>> import tempfile
        >>> from scipy.sparse import random, save_npz
        >>> path = tempfile.mkdtemp() + "/counts.npz"
        >>> save_npz(path, random(100, 30, density=0.3, format="csr", random_state=0, data_rvs=np.ones))
        >>> data = BagOfWords(path, batch_size=8)
        >>> data.vocab_size, data.vocabulary[17], data.num_classes, data.train_size
        (30, 'word 17', 0, 80)
    """

    test_hint = "set test_fraction=0.1 or test_path=FILE, or use `vqlab validate`"

    def __init__(
        self,
        path: str,
        labels_path: str | None = None,
        vocabulary_path: str | None = None,
        test_path: str | None = None,
        test_labels_path: str | None = None,
        val_fraction: ValFraction = 0.1,
        test_fraction: Probability = 0.1,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if test_labels_path is not None and test_path is None:
            raise UserError("test_labels_path needs the counts of the test documents: set test_path=FILE")
        self.path, self.labels_path = path, labels_path
        self.test_path, self.test_labels_path = test_path, test_labels_path
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self._words = None if vocabulary_path is None else read_words(vocabulary_path, "vocabulary_path")

    def describe(self) -> Format:
        return super().describe() | {"vocabulary": self.vocabulary}

    def option(self, name: str, value: Any) -> str:
        other = "path=FILE to counts of the checkpoint's words, and vocabulary_path=FILE to these"
        return other if name == "vocabulary" else super().option(name, value)

    def load_corpus(self) -> Corpus:
        counts, own_labels = read_counts(self.path, "path", len(self._words) if self._words else None)
        vocabulary = self._words or [f"word {number}" for number in range(counts.shape[1])]
        check_length("vocabulary_path", len(vocabulary), counts, 1)
        labels = read_labels(self.labels_path, "labels_path", counts, own_labels)
        test_fraction = self.test_fraction if self.test_path is None else 0.0
        rows = split_documents(counts.shape[0], self.val_fraction, test_fraction, self.seed)
        splits = {split: BagsOfWords(counts[chosen], labels[chosen], chosen) for split, chosen in rows.items()}
        if self.test_path is not None:
            test, own_labels = read_counts(self.test_path, "test_path", len(vocabulary))
            check_length("test_path", test.shape[1], counts, 1)
            test_labels = read_labels(self.test_labels_path, "test_labels_path", test, own_labels)
            splits["test"] = BagsOfWords(test, test_labels, np.arange(len(test_labels)) + counts.shape[0])
        num_classes = 1 + max(int(split.labels.max()) for split in splits.values())
        return Corpus(splits, vocabulary, [str(number) for number in range(num_classes)])


def read_counts(path: str, setting: str, words: int | None = None) -> tuple[csr_matrix, np.ndarray | None]:
    """Return the counts of a file, (N, V) float32, without stored zeros, and its labels; UserError if there are none.

    SVMlight does not store V: it is ``words``, or the highest that occurs.
    """
    formats = "scipy.sparse.save_npz, numpy.save, Matrix Market, docword or SVMlight"
    with reading(path, f"is not a matrix of documents x words ({{reason}}): set {setting}=FILE, written by {formats}"):
        stored, labels = load_matrix(path, words)
        if stored.dtype.kind not in "biuf" or len(stored.shape) != 2 or 0 in stored.shape:
            raise ValueError(f"{stored.dtype}, shape {stored.shape}")
        counts = csr_matrix(stored).astype(np.float32, copy=False)
        counts.check_format(full_check=True)  # an index out of range would end the process without an exception
        if not (np.isfinite(counts.data) & (counts.data >= 0)).all():
            raise ValueError("it contains negative or infinite values, or NaN")
    counts.sum_duplicates()
    counts.eliminate_zeros()
    return counts, labels


def load_matrix(path: str, words: int | None) -> tuple[Any, np.ndarray | None]:
    """Return the matrix of a file, sparse or dense, in the format of its first line, and the labels of SVMlight."""
    with fsspec.open(path, "rb", compression="infer" if Path(path).suffix != ".npz" else None) as file:
        first = file.readline()
        is_market = first.startswith(b"%%MatrixMarket matrix coordinate") and first.split()[-1] == b"general"
        if is_market or first.strip().isdigit():  # not scipy.io.mmread, which ends the process at a damaged file
            header = next(line for line in file if not line.startswith(b"%")) if is_market else b""
            sizes = header.split() or [first, file.readline(), file.readline()]
            documents, columns, count = map(int, sizes)
            row, column, value = np.loadtxt(file, ndmin=2).T
            if len(value) != count:
                raise ValueError(f"{len(value)} of {count} entries")
            entries = (value, (row.astype(np.int64) - 1, column.astype(np.int64) - 1))
            return csr_matrix(entries, (documents, columns)), None
        if re.match(rb"[-+.\d]+( qid:\d+)?( \d+:\S+)*\s*$", first):
            from sklearn.datasets import load_svmlight_file  # takes a second to import

            file.seek(0)
            counts, labels = load_svmlight_file(file, n_features=words)
            return counts, np.maximum(labels, 0) if {*labels} <= {-1, 1} else labels
    stored = np.load(path, allow_pickle=False)
    if isinstance(stored, np.ndarray):
        return stored, None
    with stored:
        if {"format", "shape", "data"} <= set(stored.files):
            return load_npz(path), None
        (name,) = stored.files
        return stored[name], None


def check_length(setting: str, length: int, counts: csr_matrix, axis: int) -> None:
    """Raise UserError unless the file of a setting has the ``length`` of an axis of the counts (N, V)."""
    if counts.shape[axis] != length:
        what, counted = ("rows", "words")[axis], "{} documents x {} words".format(*counts.shape)
        raise UserError(f"{setting} must fit the counts of {counted}, but has {length} {what}")


def read_labels(path: str | None, setting: str, counts: csr_matrix, own: np.ndarray | None) -> np.ndarray:
    """Return a class number for each row of ``counts``, (N,): of the file, of ``own``, or -1 if there is neither."""
    if path is None and own is None:
        return np.full(counts.shape[0], -1)
    rule = f"({{reason}}): set {setting}=FILE to class numbers from 0, one a document"
    with reading(path or "the SVMlight file", f"has no labels {rule}"):
        if path is not None:
            own = np.loadtxt(path) if Path(path).suffix.lower() == ".txt" else np.load(path, allow_pickle=False)
        labels: Any = np.ravel(own)  # type: ignore[arg-type]
        if (labels % 1 != 0).any() or (labels < -1).any():
            raise ValueError("fractions or negative numbers")
    check_length(setting, len(labels), counts, 0)
    return labels.astype(np.int64)
