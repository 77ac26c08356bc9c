"""Documents of which only the counts of their words are known."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, load_npz

from vqlab.data.text import BagsOfWords, Corpus, TextDataModule, split_documents
from vqlab.data.vocabulary import read_words
from vqlab.errors import UserError
from vqlab.training.data_format import Format


class BagOfWords(TextDataModule):
    """Documents as a sparse matrix of counts, as ``scipy.sparse.save_npz`` writes it.

    Args:
        path: File with the counts (N, V), ``.npz``.
        labels_path: File with a class number per document (N,), ``.npy``; -1 where there is none.
        vocabulary_path: File with the words, one a line, V lines; null calls them ``word 0``, ``word 1``, ...
        test_path: File with the counts of test documents.
        test_labels_path: File with their class numbers.
        val_fraction: Share of the documents kept for validation.
        test_fraction: Share of the documents kept for test, where there is no ``test_path``; 0 keeps none.
        **common: ``batch_size``, ``weighting``, ``num_workers``, ``seed``: see
            :class:`~vqlab.data.text.TextDataModule`.

    Shape:
        See :class:`~vqlab.data.text.TextDataModule`.

    Raises:
        UserError: If a file is missing or unreadable, counts are negative or no numbers, or sizes do not fit.

    Example:
        >>> import tempfile
        >>> from scipy.sparse import random, save_npz
        >>> path = tempfile.mkdtemp() + "/counts.npz"
        >>> save_npz(path, random(100, 30, density=0.3, format="csr", random_state=0))
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
        labels = read_labels(self.labels_path, "labels_path", counts.shape[0])
        vocab_size = counts.shape[1]
        vocabulary = self._words or [f"word {number}" for number in range(vocab_size)]
        if len(vocabulary) != vocab_size:
            raise UserError(
                f"{self.path} counts {vocab_size} words, but there are {len(vocabulary)} in --data.vocabulary_path: "
                "give the words of these counts"
            )
        test_fraction = self.test_fraction if self.test_path is None else 0.0
        rows = split_documents(counts.shape[0], self.val_fraction, test_fraction, self.seed)
        splits = {split: BagsOfWords(counts[chosen], labels[chosen], None, chosen) for split, chosen in rows.items()}
        if self.test_path is not None:
            test = read_counts(self.test_path, "test_path")
            if test.shape[1] != vocab_size:
                raise UserError(
                    f"{self.test_path} counts {test.shape[1]} words, but {self.path} {vocab_size}: "
                    "set --data.test_path to counts of the same words"
                )
            test_labels = read_labels(self.test_labels_path, "test_labels_path", test.shape[0])
            splits["test"] = BagsOfWords(test, test_labels, None, np.arange(len(test_labels)) + counts.shape[0])
        num_classes = 1 + max(int(split.labels.max()) for split in splits.values())
        return Corpus(splits, vocabulary, [str(number) for number in range(num_classes)])


def read_counts(path: str, setting: str) -> csr_matrix:
    """Return the counts of a file, (N, V) float32, without stored zeros.

    Raises:
        UserError: If there are none, or they are no counts.
    """
    try:
        stored = load_npz(path)
        if stored.dtype.kind not in "biuf":
            raise TypeError(stored.dtype)
        counts = csr_matrix(stored).astype(np.float32, copy=False)
        counts.check_format(full_check=True)  # a column that is not there would end the process, not raise
    except Exception as error:  # dense arrays and damaged files make SciPy raise many things
        raise UserError(
            f"{path} holds no sparse matrix of real numbers: write one by scipy.sparse.save_npz, or set "
            f"--data.{setting} to another file"
        ) from error
    if counts.ndim != 2 or 0 in counts.shape:
        raise UserError(f"{path} has the shape {counts.shape}: set --data.{setting} to counts of documents x words")
    wrong = counts.data[~(np.isfinite(counts.data) & (counts.data >= 0))]
    if len(wrong):
        raise UserError(
            f"{path} holds {len(wrong)} values such as {wrong[0]:g}: counts are 0 or more, set --data.{setting} to such"
        )
    counts.sum_duplicates()
    counts.eliminate_zeros()
    return counts


def read_labels(path: str | None, setting: str, count: int) -> np.ndarray:
    """Return (count,) class numbers, -1 where there is no file.

    Raises:
        UserError: If the file holds others, or of another length.
    """
    if path is None:
        return np.full(count, -1)
    try:
        labels = np.load(path, allow_pickle=False)
        if not isinstance(labels, np.ndarray):
            raise TypeError("an archive")
    except Exception as error:  # damaged files make NumPy raise many things
        raise UserError(f"{path} is no array: set --data.{setting} to a file that numpy.save wrote") from error
    if labels.shape != (count,):
        raise UserError(
            f"{path} has the shape {labels.shape}, but there are {count} documents: save one label for each"
        )
    if labels.dtype.kind not in "iu" or (labels < -1).any():
        raise UserError(f"{path} must hold class numbers from 0 on, or -1: set --data.{setting} to such")
    return labels.astype(np.int64)
