"""Documents of which only the counts of their words are known."""

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, load_npz

from vqlab.data.datamodule import ValFraction
from vqlab.data.files import reading
from vqlab.data.text.base import BagsOfWords, Corpus, TextDataModule, split_documents
from vqlab.data.text.records import HEAD, open_bytes
from vqlab.data.text.vocabulary import read_words
from vqlab.errors import UserError, read_error
from vqlab.training.data_format import Format
from vqlab.validation import Probability

DOCWORD = re.compile(rb"\d+\s*\n\d+\s*\n\d+\s*\n\d+ \d+ \d+\s")

log = logging.getLogger(__name__)


class BagOfWords(TextDataModule):
    """Documents as a matrix of counts, as ``scipy.sparse.save_npz`` writes it.

    Counts may also be a dense array (``.npy``, or alone in an ``.npz``), or in the format of Matrix Market, as gensim
    writes it, or of UCI's ``docword`` files; these two may be compressed.

    Args:
        path: File with the counts (N, V).
        labels_path: File with a class number per document (N,), ``.npy``, or ``.txt`` with one a line; -1 where there
            is none.
        vocabulary_path: File with the words, one a line, V lines. Default: ``word 0``, ``word 1``, ...
        test_path: File with the counts of test documents.
        test_labels_path: File with their class numbers.
        val_fraction: Fraction of the documents for validation.
        test_fraction: Fraction of the documents for test, where there is no ``test_path``; 0 keeps none.
        **common: Arguments of :class:`~vqlab.data.text.base.TextDataModule`.

    Raises:
        UserError: If a file is missing or unreadable, counts are negative or no numbers, or sizes do not fit.

    Example:
        >>> import tempfile
        >>> from scipy.sparse import random, save_npz
        >>> path = tempfile.mkdtemp() + "/counts.npz"
        >>> save_npz(path, random(100, 30, density=0.3, format="csr", random_state=0, data_rvs=np.ones))
        >>> data = BagOfWords(path, batch_size=8)
        >>> data.vocab_size, data.vocabulary[17], data.num_classes, data.train_size
        (30, 'word 17', 0, 80)
    """

    test_mend = "set test_fraction=0.1 or test_path=FILE, or use `vqlab validate`"

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
        files = {"path": path, "labels_path": labels_path, "test_path": test_path, "test_labels_path": test_labels_path}
        for setting, file in files.items():
            if file is not None and not Path(file).is_file():
                raise UserError(f"{setting} must be a file, but {file} is none")
        if test_labels_path is not None and test_path is None:
            raise UserError("test_labels_path needs the counts of the test documents: set test_path=FILE")
        self.path, self.labels_path = path, labels_path
        self.test_path, self.test_labels_path = test_path, test_labels_path
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self._words = None if vocabulary_path is None else read_words(vocabulary_path, "vocabulary_path")

    def describe(self) -> Format:
        """Return the weighting, and the vocabulary that the columns stand for."""
        return super().describe() | {"vocabulary": self.vocabulary}

    def option(self, name: str, value: Any) -> str:
        """Other counts are needed where the vocabulary differs."""
        if name != "vocabulary":
            return super().option(name, value)
        return "path=FILE to counts of the checkpoint's words, and vocabulary_path=FILE to these"

    def load_corpus(self) -> Corpus:
        """Read the counts and the labels, and draw the splits."""
        counts = read_counts(self.path, "path")
        vocabulary = self._words or [f"word {number}" for number in range(counts.shape[1])]
        check_length("vocabulary_path", len(vocabulary), counts, 1)
        if self.weighting == "tfidf" and (counts.data % 1).any():
            log.warning(
                f"{self.path} holds weights such as {counts.data[counts.data % 1 > 0][0]:g}, no counts: if they are "
                "tf-idf, set weighting=counts to take them as they are"
            )
        labels = read_labels(self.labels_path, "labels_path", counts)
        test_fraction = self.test_fraction if self.test_path is None else 0.0
        rows = split_documents(counts.shape[0], self.val_fraction, test_fraction, self.seed)
        splits = {split: BagsOfWords(counts[chosen], labels[chosen], None, chosen) for split, chosen in rows.items()}
        if self.test_path is not None:
            test = read_counts(self.test_path, "test_path")
            check_length("test_path", test.shape[1], counts, 1)
            test_labels = read_labels(self.test_labels_path, "test_labels_path", test)
            splits["test"] = BagsOfWords(test, test_labels, None, np.arange(len(test_labels)) + counts.shape[0])
        num_classes = 1 + max(int(split.labels.max()) for split in splits.values())
        return Corpus(splits, vocabulary, [str(number) for number in range(num_classes)])


def read_counts(path: str, setting: str) -> csr_matrix:
    """Return the counts of a file, (N, V) float32, without stored zeros.

    Raises:
        UserError: If there are none, or they are no counts.
    """
    formats = "scipy.sparse.save_npz, numpy.save, Matrix Market or docword"
    with reading(path, f"is no matrix of documents x words ({{reason}}): set {setting}=FILE, written by {formats}"):
        stored = load_matrix(path)
        if stored.dtype.kind not in "biuf" or len(stored.shape) != 2 or 0 in stored.shape:
            raise ValueError(f"{stored.dtype}, shape {stored.shape}")
        counts = csr_matrix(stored).astype(np.float32, copy=False)
        counts.check_format(full_check=True)  # a column that is not there would end the process, not raise
    wrong = counts.data[~(np.isfinite(counts.data) & (counts.data >= 0))]
    if len(wrong):
        raise UserError(f"{setting} must hold counts of 0 or more, but {path} has {len(wrong)} such as {wrong[0]:g}")
    counts.sum_duplicates()
    counts.eliminate_zeros()
    return counts


def load_matrix(path: str) -> Any:
    """Return the matrix of a file, sparse or dense; how the file starts tells its format."""
    with open_bytes(Path(path)) as file:
        head = file.peek(HEAD)[:HEAD]
        if head.startswith(b"%%MatrixMarket"):  # scipy.io.mmread ends the process where a file is damaged
            kind = file.readline().lower().split()
            sizes = [int(size) for size in next(line for line in file if not line.startswith(b"%")).split()]
            if kind[-1] != b"general" or b"complex" in kind:
                raise ValueError("symmetric or complex")
            if b"array" in kind:
                return np.loadtxt(file).reshape(sizes[::-1]).T  # column by column
            return from_entries(file, *sizes)
        if DOCWORD.match(head):
            return from_entries(file, *(int(file.readline()) for _ in range(3)))
    stored = np.load(path, allow_pickle=False)
    if isinstance(stored, np.ndarray):
        return stored
    with stored:
        if {"format", "shape", "data"} <= set(stored.files):
            return load_npz(path)
        if len(stored.files) > 1:
            raise ValueError(f"several arrays: {', '.join(stored.files)[:60]}")
        return stored[stored.files[0]]


def from_entries(file: Any, documents: int, words: int, count: int) -> csr_matrix:
    """Return the matrix of the rest of a file: ``count`` lines of document, word (both from 1 on) and value."""
    row, column, value = np.loadtxt(file, ndmin=2).T
    if len(value) != count:
        raise ValueError(f"{len(value)} of {count} entries")
    return csr_matrix((value, (row.astype(np.int64) - 1, column.astype(np.int64) - 1)), (documents, words))


def check_length(setting: str, length: int, counts: csr_matrix, axis: int) -> None:
    """Raise UserError unless what a setting gives has the ``length`` of an axis of the counts (N, V)."""
    if counts.shape[axis] != length:
        is_other = counts.shape[1 - axis] == length
        advice = ": the rows of the counts are words, write matrix.T" if is_other else ""
        counted = f"{counts.shape[0]} documents x {counts.shape[1]} words"
        raise UserError(
            f"{setting} must fit the counts of {counted}, but has {length} {('rows', 'words')[axis]}{advice}"
        )


def read_labels(path: str | None, setting: str, counts: csr_matrix) -> np.ndarray:
    """Return a class number for each row of ``counts``, (N,), -1 where there is no file.

    Raises:
        UserError: If the file holds others, or of another length.
    """
    count = counts.shape[0]
    if path is None:
        return np.full(count, -1)
    try:
        labels = np.loadtxt(path, ndmin=1) if Path(path).suffix.lower() == ".txt" else np.load(path, allow_pickle=False)
        labels = labels[:, 0] if labels.shape == (count, 1) else labels
        is_valid = labels.ndim == 1 and (labels % 1 == 0).all() and (labels >= -1).all()
    except Exception as error:  # damaged files make NumPy raise many things
        message = f"{setting} must be an array of numpy.save, or a .txt file with a number in each line, got {path}"
        raise read_error(path, error, message) from error
    if not is_valid:
        raise UserError(f"{setting} must hold class numbers from 0 on, or -1, one a document: {path} does not")
    check_length(setting, len(labels), counts, 0)
    return labels.astype(np.int64)
