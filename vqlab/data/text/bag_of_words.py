"""Documents of which only the counts of their words are known."""

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import mmread
from scipy.sparse import csr_matrix, load_npz

from vqlab.data.files import reading
from vqlab.data.text.base import BagsOfWords, Corpus, TextDataModule, split_documents
from vqlab.data.text.open_text import HEAD, open_bytes
from vqlab.data.text.vocabulary import read_words
from vqlab.errors import UserError, read_error
from vqlab.training.data_format import Format

SPARSE = {"format", "shape", "data", "indices", "indptr", "row", "col", "offsets", "_is_array"}  # arrays of save_npz
DOCWORD = re.compile(rb"\d+\s*\n\d+\s*\n\d+\s*\n\d+ \d+ \d+\s")
SVMLIGHT = re.compile(rb"\S+( \d+:\S+)+\s")

log = logging.getLogger(__name__)


class BagOfWords(TextDataModule):
    """Documents as a matrix of counts, as ``scipy.sparse.save_npz`` writes it.

    Counts may also be a dense array (``.npy``, ``.npz``), in Matrix Market's format, as gensim writes it, or in that
    of UCI's ``docword`` files; these two may be compressed.

    Args:
        path: File with the counts (N, V).
        labels_path: File with a class number per document (N,), ``.npy``, or ``.txt`` with one a line; -1 where there
            is none.
        vocabulary_path: File with the words, one a line, V lines; null calls them ``word 0``, ``word 1``, ...
        test_path: File with the counts of test documents.
        test_labels_path: File with their class numbers.
        val_fraction: Share of the documents kept for validation.
        test_fraction: Share of the documents kept for test, where there is no ``test_path``; 0 keeps none.
        **common: ``batch_size``, ``weighting``, ``num_workers``, ``seed``: see
            :class:`~vqlab.data.text.base.TextDataModule`.

    Shape:
        See :class:`~vqlab.data.text.base.TextDataModule`.

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

    test_mend = "set --data.test_path or --data.test_fraction, or use `vqlab validate`"

    def __init__(
        self,
        path: str,
        labels_path: str | None = None,
        vocabulary_path: str | None = None,
        test_path: str | None = None,
        test_labels_path: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        files = {
            "path": path,
            "labels_path": labels_path,
            "test_path": test_path,
            "test_labels_path": test_labels_path,
        }
        for setting, file in files.items():
            if file is not None and not Path(file).is_file():
                raise UserError(f"{file} is not a file: set --data.{setting} to one")
        if test_labels_path is not None and test_path is None:
            raise UserError("test_labels_path is given without test_path: set --data.test_path to the counts")
        self.path, self.labels_path = path, labels_path
        self.test_path, self.test_labels_path = test_path, test_labels_path
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self._words = None if vocabulary_path is None else read_words(vocabulary_path, "vocabulary_path")

    def describe(self) -> Format:
        """Return weighting and vocabulary, of which the columns are."""
        return super().describe() | {"vocabulary": self.vocabulary}

    def option(self, name: str, value: Any) -> str:
        """Counts cannot be counted again."""
        if name != "vocabulary":
            return super().option(name, value)
        return "--data.path to counts of the checkpoint's words, and --data.vocabulary_path to these"

    def load_corpus(self) -> Corpus:
        """Read the counts and the labels, and draw the splits."""
        counts = read_counts(self.path, "path")
        vocab_size = counts.shape[1]
        vocabulary = self._words or [f"word {number}" for number in range(vocab_size)]
        if len(vocabulary) != vocab_size:
            raise UserError(
                f"{self.path} counts {vocab_size} words, but there are {len(vocabulary)} in --data.vocabulary_path: "
                f"{hint(len(vocabulary), counts.shape[0], 'give the words of these counts')}"
            )
        if self.weighting == "tfidf" and (counts.data % 1).any():
            log.warning(
                f"{self.path} holds weights such as {counts.data[counts.data % 1 > 0][0]:g}, no counts: if they are "
                "tf-idf, set --data.weighting=counts to take them as they are"
            )
        labels = read_labels(self.labels_path, "labels_path", counts)
        test_fraction = self.test_fraction if self.test_path is None else 0.0
        rows = split_documents(counts.shape[0], self.val_fraction, test_fraction, self.seed)
        splits = {split: BagsOfWords(counts[chosen], labels[chosen], None, chosen) for split, chosen in rows.items()}
        if self.test_path is not None:
            test = read_counts(self.test_path, "test_path")
            if test.shape[1] != vocab_size:
                raise UserError(
                    f"{self.test_path} counts {test.shape[1]} words, but {self.path} {vocab_size}: "
                    f"{hint(vocab_size, test.shape[0], 'set --data.test_path to counts of the same words')}"
                )
            test_labels = read_labels(self.test_labels_path, "test_labels_path", test)
            splits["test"] = BagsOfWords(test, test_labels, None, np.arange(len(test_labels)) + counts.shape[0])
        num_classes = 1 + max(int(split.labels.max()) for split in splits.values())
        return Corpus(splits, vocabulary, [str(number) for number in range(num_classes)])


def read_counts(path: str, setting: str) -> csr_matrix:
    """Return the counts of a file, (N, V) float32, without stored zeros.

    Raises:
        UserError: If there are none, or they are no counts.
    """
    damaged = "holds no matrix of real numbers: write one by scipy.sparse.save_npz, or set --data.{} to another file"
    with reading(path, damaged.format(setting)):
        stored = load_matrix(path, setting)
        if stored.dtype.kind not in "biuf":
            raise TypeError(stored.dtype)
        shape = stored.shape
        counts = csr_matrix(stored).astype(np.float32, copy=False)
        counts.check_format(full_check=True)  # a column that is not there would end the process, not raise
    if len(shape) != 2 or 0 in shape:
        raise UserError(f"{path} has the shape {shape}: set --data.{setting} to counts of documents x words")
    wrong = counts.data[~(np.isfinite(counts.data) & (counts.data >= 0))]
    if len(wrong):
        raise UserError(
            f"{path} holds {len(wrong)} values such as {wrong[0]:g}: counts are 0 or more, set --data.{setting} to such"
        )
    counts.sum_duplicates()
    counts.eliminate_zeros()
    return counts


def load_matrix(path: str, setting: str) -> Any:
    """Return the matrix of a file, sparse or dense; its format is known by how the file starts.

    Raises:
        UserError: If the format is another one.
    """
    with open_bytes(Path(path)) as file:
        head = file.peek(HEAD)[:HEAD]
        if head.startswith(b"%%MatrixMarket"):
            return mmread(file)
        if DOCWORD.match(head):
            documents, words, _ = (int(file.readline()) for _ in range(3))
            row, column, count = np.loadtxt(file, np.int64, ndmin=2).T
            return csr_matrix((count, (row - 1, column - 1)), (documents, words))
    if SVMLIGHT.match(head):
        raise UserError(
            f"{path} is in SVMlight's format: read it by sklearn.datasets.load_svmlight_file, write the counts by "
            "scipy.sparse.save_npz and the labels, as integers, by numpy.save"
        )
    if head.startswith(b"\x93NUMPY") and b"'descr': '|O'" in head:
        raise UserError(
            f"{path} holds lists of word numbers, not counts: write numpy.bincount(numbers, minlength=V) of each as "
            "a row of an array, by numpy.save"
        )
    if not head.startswith(b"PK"):
        return np.load(path, allow_pickle=False)
    with np.load(path, allow_pickle=False) as arrays:
        names = set(arrays.files)
        if {"format", "shape", "data"} <= names:
            if names - SPARSE:
                others = ", ".join(sorted(names - SPARSE))
                log.warning(f"{path} holds {others}, too, and only its matrix is read: labels are --data.labels_path")
            return load_npz(path)
        if len(names) > 1:
            raise UserError(
                f"{path} holds several arrays, {', '.join(sorted(names))[:60]}: write the counts by numpy.save for "
                f"--data.{setting}, and labels by numpy.save for --data.labels_path"
            )
        return arrays[names.pop()]


def hint(length: int, documents: int, otherwise: str) -> str:
    """Return what to do about a length that should be that of the other axis."""
    return (
        "the rows of the counts are words, so write them transposed, as matrix.T" if length == documents else otherwise
    )


def read_labels(path: str | None, setting: str, counts: csr_matrix) -> np.ndarray:
    """Return a class number for each row of ``counts``, (N,), -1 where there is no file.

    Raises:
        UserError: If the file holds others, or of another length.
    """
    count, words = counts.shape
    if path is None:
        return np.full(count, -1)
    try:
        if Path(path).suffix.lower() == ".txt":
            labels = np.loadtxt(path, ndmin=1)
            labels = labels.astype(np.int64) if (labels % 1 == 0).all() else labels
        else:
            labels = np.load(path, allow_pickle=False)
        if not isinstance(labels, np.ndarray):
            raise TypeError("an archive")
    except Exception as error:  # damaged files make NumPy raise many things
        message = (
            f"{path} is no array: set --data.{setting} to a file that numpy.save wrote, or a .txt file with a number "
            "in each line"
        )
        raise read_error(path, error, message) from error
    labels = labels[:, 0] if labels.shape == (count, 1) else labels
    if labels.shape != (count,):
        raise UserError(
            f"{path} has the shape {labels.shape}, but there are {count} documents: "
            f"{hint(words, len(labels) if labels.ndim else 0, 'save one label for each')}"
        )
    if labels.dtype.kind not in "iu" or (labels < -1).any():
        raise UserError(f"{path} must hold class numbers from 0 on, or -1: set --data.{setting} to such")
    return labels.astype(np.int64)
