"""What the sources of raw text share: words are found, the vocabulary is chosen, documents are counted and split."""

import logging
import re
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from vqlab.data.datamodule import ValFraction
from vqlab.data.split_folders import SPLITS
from vqlab.data.text.base import BagsOfWords, Corpus, TextDataModule, split_documents
from vqlab.data.text.vocabulary import (
    WORD,
    choose_words,
    count_words,
    join,
    read_words,
    stop_list,
    tokenize,
    word_finder,
)
from vqlab.errors import UserError
from vqlab.training.data_format import Format, check_format
from vqlab.validation import Count, Fraction, Probability

DECIMAL = re.compile(r"[-+]?\d*\.\d*[1-9]\d*(e[-+]?\d+)?|\d+e-\d+", re.IGNORECASE)  # 1.0 may be a class
FEW = 10  # labels that may all differ

log = logging.getLogger(__name__)


class Document(NamedTuple):
    """A text.

    Args:
        text: Its words.
        label: Name of its class, if it has one.
        split: train, val or test; None where it is to be drawn.
    """

    text: str
    label: str | None = None
    split: str | None = None


class RawTextDataModule(TextDataModule):
    """Raw texts as bags of words, with a vocabulary that is chosen from the training documents alone.

    A source subclasses this and defines :meth:`read`. The texts are read once; what stays in memory is a number for
    each word, 4 bytes, and the counts.

    Args:
        val_fraction: Fraction of the training documents for validation, where the source has no such split.
        test_fraction: Fraction of the documents for test, where the source has no splits; 0 keeps none.
        token_pattern: Regular expression of a word in lower-case text; the default is three letters or more, with
            combining marks such as the vowels of Hindi or Thai, or two ideographs or syllables of Chinese, Japanese or
            Korean. Words must be separated by spaces.
        min_df: Leave out words that are in fewer training documents: a number of them, or as a float a fraction.
        max_df: Leave out words that are in more training documents: a number of them, or as a float a fraction.
        max_vocab: Keep that many of the other words, those in most training documents; null keeps all.
        stop_words: Words to leave out: ``english`` (scikit-learn's list), a file with one a line, or null for none.
        vocabulary_path: A file with one word a line, which is the vocabulary in this order; ``min_df``, ``max_df``,
            ``max_vocab`` and ``stop_words`` then have no effect.
        **common: Arguments of :class:`~vqlab.data.text.base.TextDataModule`.

    Raises:
        UserError: If an argument is out of range, or no word or no document is left.

    Example:
        >>> class Sayings(RawTextDataModule):
        ...     def read(self):
        ...         yield from [Document("A cat may look at a king.")] * 9 + [Document("Let sleeping dogs lie.")]
        >>> data = Sayings(min_df=2, max_df=1.0, batch_size=4, test_fraction=0)
        >>> data.vocabulary, data.train_size
        (['cat', 'king', 'look'], 8)
    """

    test_mend = "set test_fraction=0.1, or use `vqlab validate`"

    def __init__(
        self,
        val_fraction: ValFraction = 0.1,
        test_fraction: Probability = 0.1,
        token_pattern: str = WORD,
        min_df: Count | Fraction = 5,
        max_df: Count | Fraction = 0.5,
        max_vocab: Count | None = 2000,
        stop_words: str | None = "english",
        vocabulary_path: str | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        check_pattern(token_pattern)
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.token_pattern, self.vocabulary_path = token_pattern, vocabulary_path
        self.min_df, self.max_df, self.max_vocab = min_df, max_df, max_vocab
        self.stop_words = stop_list(stop_words)
        self._is_trained = False  # whether the vocabulary is that of a checkpoint
        self._given = None if vocabulary_path is None else read_vocabulary(vocabulary_path, token_pattern)

    def apply_format(self, trained: Format) -> None:
        """Count words by the checkpoint's vocabulary, whatever else the texts hold."""
        if words := trained.get("vocabulary"):
            if self._given is not None and not self._is_trained:
                check_format({"vocabulary": words}, {"vocabulary": self._given}, self.option)
            self._given, self._is_trained = [*map(str, words)], True
        super().apply_format(trained)

    def option(self, name: str, value: Any) -> str:
        """The checkpoint's vocabulary serves where no other is given."""
        return "vocabulary_path=null" if name == "vocabulary" else super().option(name, value)

    @abstractmethod
    def read(self) -> Iterator[Document]:
        """Yield all documents, in an order that is always the same."""

    def load_corpus(self) -> Corpus:
        """Find the words of all documents, choose the vocabulary, and count."""
        labels, places = [], []

        def texts() -> Iterator[str]:
            for document in self.read():
                labels.append(document.label)
                places.append(document.split)
                yield document.text

        words, documents = tokenize(texts(), self.token_pattern)
        try:
            rows = split_rows(places, self.val_fraction, self.test_fraction, self.seed)
        except UserError:  # a trained model takes too few to train on, too
            if not self._is_trained:
                raise
            rows = dict.fromkeys(SPLITS, np.arange(len(places)))
        vocabulary = self._given
        if vocabulary is None:
            train = [documents[row] for row in rows["train"]]
            vocabulary = choose_words(words, train, self.min_df, self.max_df, self.max_vocab, self.stop_words)
        numbers = {word: number for number, word in enumerate(vocabulary)}
        columns = np.array([numbers.get(word, -1) for word in words], np.int32)
        class_names, classes = number_labels(labels)
        splits = {}
        for split, chosen in rows.items():
            tokens = join((documents[row] for row in chosen), columns)
            counts = count_words(tokens, len(vocabulary))
            splits[split] = BagsOfWords(counts, classes[chosen], tokens if split == "train" else None, chosen)
        return Corpus(splits, vocabulary, class_names)


def check_pattern(pattern: str) -> None:
    """Raise UserError unless ``pattern`` is a regular expression that finds words."""
    try:
        groups, empty = re.compile(pattern).groups, re.search(pattern, "")
        reason = f"has {groups} groups" if groups > 1 else "finds words without letters" if empty else None
    except re.error as error:
        reason = f"is no regular expression ({error})"
    if reason is not None:
        raise UserError(f"token_pattern {reason}: got {pattern!r}, the default is {WORD!r}")


def read_vocabulary(path: str, pattern: str) -> list[str]:
    """Return the words of a file, and warn of words that ``pattern`` does not find in texts."""
    words = read_words(path, "vocabulary_path")
    find = word_finder(pattern)
    lost = [word for word in words if find(word) != [word]]
    if lost:
        log.warning(
            f"{len(lost)} of {len(words)} words of {path}, such as {', '.join(lost[:5])}, are never found by "
            f"token_pattern {pattern!r} in lower-case text: write them in lower case, or set token_pattern"
        )
    return words


def split_rows(places: list[str | None], val_fraction: float, test_fraction: float, seed: int) -> dict[str, np.ndarray]:
    """Return the sorted positions of the documents of each split.

    Args:
        places: The split of each document, None for all where the source has no splits.
        val_fraction: Fraction for validation, of the training documents, if the source has no such split.
        test_fraction: Fraction for test, if the source has no splits.
        seed: Seed of the draw.

    Raises:
        UserError: If there are too few, or some documents have a split and others do not.
    """
    if not any(places):
        return split_documents(len(places), val_fraction, test_fraction, seed)
    where = np.array([place or "" for place in places])
    rows = {split: np.flatnonzero(where == split) for split in SPLITS if split in places}
    if not all(places) or "train" not in rows:
        counts = ", ".join(f"{len(positions):,} of {split}" for split, positions in rows.items())
        raise UserError(
            f"each document must have a split, and some that of train, got {counts} of {len(places):,} documents: set "
            "split_column=NAME to a column that all have"
        )
    if "val" in rows:
        return rows
    train = rows.pop("train")
    drawn = split_documents(len(train), val_fraction, 0.0, seed)
    return {split: train[chosen] for split, chosen in drawn.items()} | rows


def number_labels(labels: list[str | None]) -> tuple[list[str], np.ndarray]:
    """Return the sorted names of the classes, and each document's number, -1 for none; a single class is none.

    Labels that cannot be classes (decimals, or a different one for each document) are left out with a warning.

    Example:
        >>> number_labels(["b", None, "a", "b"])[1].tolist(), number_labels(["10", "9"])[0]
        ([1, -1, 0, 1], ['9', '10'])
    """
    given = [label for label in labels if label is not None]
    names = sorted(set(given))
    decimal = next(filter(DECIMAL.fullmatch, names), None)
    if decimal is not None or len(names) == len(given) > FEW:
        what = f"are decimals such as {decimal}" if decimal else f"are all different, such as {names[0]:.40}"
        log.warning(f"the labels {what}, so they are not used as classes: set label_column to another column")
        names = []
    if all(name.isdecimal() for name in names):
        names.sort(key=int)
    if len(names) < 2:
        names = []
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(names)}
    return names, np.array([numbers.get(label, -1) for label in labels], np.int64)
