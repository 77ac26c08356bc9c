"""What the sources of raw text share: words are found, the vocabulary is chosen, documents are counted and split."""

import logging
import re
import unicodedata
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vqlab.data.datamodule import ValFraction
from vqlab.data.split_folders import SPLITS
from vqlab.data.text.base import BagsOfWords, Corpus, TextDataModule, Tokens, split_documents
from vqlab.errors import UserError
from vqlab.training.data_format import Format, check_format
from vqlab.validation import Count, Fraction, Probability

# Three letters or more of any alphabet; names with digits or underscores are no words. See marked_words for the rest.
WORD = r"\b[^\W\d_]{3,}\b"
SYLLABLES = "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]"  # kana, ideographs, hangul: two of them make a word
# What WORD leaves of don't, doesn't, ...; scikit-learn's list of stop words knows them with their apostrophe alone.
CONTRACTIONS = (
    "ain aren couldn didn doesn don hadn hasn haven isn mightn mustn needn shan shouldn wasn weren won wouldn"
)

log = logging.getLogger(__name__)


class Document(NamedTuple):
    """A text with its class and split."""

    text: str
    label: str | None = None  # name of its class, if it has one
    split: str | None = None  # train, val or test; None where it is to be drawn


class RawTextDataModule(TextDataModule):
    """Raw texts, which a source yields in :meth:`read`, with a vocabulary of the training documents alone.

    Args:
        val_fraction: Fraction of the training documents for validation, where the source has no such split.
        test_fraction: Fraction of the documents for test, where the source has no splits; 0 keeps none.
        token_pattern: Regular expression of a word in lower-case text. Default: three letters or more, with combining
            marks, or two characters of Chinese, Japanese or Korean. Spaces must separate words.
        min_df: Leave out words that are in fewer training documents: a number of them, or as a float a fraction.
        max_df: Leave out words that are in more training documents: a number of them, or as a float a fraction.
        max_vocab: Keep that many of the other words, those in most training documents; null keeps all.
        stop_words: Words to leave out: ``english`` (scikit-learn's list), a file with one a line, or null for none.
        vocabulary_path: A file with one word a line: the vocabulary in this order, instead of the last four settings.
        **common: Arguments of :class:`~vqlab.data.text.base.TextDataModule`.
    """

    test_hint = "set test_fraction=0.1, or use `vqlab validate`"

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
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.token_pattern, self.vocabulary_path = token_pattern, vocabulary_path
        self.min_df, self.max_df, self.max_vocab = min_df, max_df, max_vocab
        self.stop_words = stop_list(stop_words)
        find = word_finder(token_pattern)
        self._is_trained = False  # whether the vocabulary is that of a checkpoint
        self._given = None if vocabulary_path is None else read_words(vocabulary_path, "vocabulary_path")
        if lost := [word for word in self._given or () if find(word) != [word]]:
            log.warning(
                f"token_pattern never finds {len(lost)} words of vocabulary_path, such as {', '.join(lost[:5])}"
            )

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
        labels: list[str | None] = []
        places: list[str | None] = []

        def texts() -> Iterator[str]:
            for text, label, place in self.read():
                labels.append(label)
                places.append(place)
                yield text

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
        column_of = {word: column for column, word in enumerate(vocabulary)}
        columns = np.array([column_of.get(word, -1) for word in words], np.int32)
        class_names, classes = number_labels(labels)
        splits = {}
        for split, chosen in rows.items():
            mapped = [columns[documents[row]] for row in chosen]
            tokens = Tokens.of([ids[ids >= 0] for ids in mapped])
            counts = tokens.counts(len(vocabulary))
            splits[split] = BagsOfWords(counts, classes[chosen], tokens if split == "train" else None, chosen)
        return Corpus(splits, vocabulary, class_names)


def tokenize(texts: Iterable[str], pattern: str = WORD) -> tuple[list[str], list[np.ndarray]]:
    """Return the different words of texts, and each text as the numbers of its words."""
    find = word_finder(pattern)
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__  # a new word gets the next number
    documents = [np.array([numbers[word] for word in find(text)], np.int32) for text in texts]
    return [*numbers], documents


def word_finder(pattern: str) -> Callable[[str], list[str]]:
    """Return a function that finds the words of a text, in lower case and composed (NFC)."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"token_pattern is no regular expression ({error}): got {pattern!r}") from error
    if compiled.groups > 1:
        raise UserError(f"token_pattern must have at most one group, got {pattern!r}: write (?:...) for others")
    find = compiled.findall
    find_any = marked_words().findall if pattern == WORD else find
    return lambda text: find(text.lower()) if text.isascii() else find_any(normalize(text))


def normalize(text: str) -> str:
    """Return a text in lower case and composed form (NFC), without the dot that lower() puts on a Turkish i."""
    return unicodedata.normalize("NFC", text.lower().replace("i\u0307", "i"))


@cache
def marked_words() -> re.Pattern[str]:
    """Return ``WORD`` for texts beyond ASCII: combining marks, as vowels of Hindi or Arabic, continue a word."""
    codes = [code for code in range(0x300, 0x10000) if unicodedata.category(chr(code)) in ("Mn", "Mc")]
    mark = f"[\u200c\u200d{re.escape(''.join(map(chr, codes)))}]"
    letter = r"[^\W\d_]"
    word = rf"{letter}(?:{letter}|{mark}){{2,}}|{SYLLABLES}{{2}}"
    return re.compile(rf"(?<!\w)(?<!\w{mark})(?:{word})(?!\w|{mark})")


def choose_words(
    words: list[str],
    documents: list[np.ndarray],
    min_df: int | float = 1,
    max_df: int | float = 1.0,
    max_vocab: int | None = None,
    stop_words: Iterable[str] = (),
) -> list[str]:
    """Return the vocabulary in alphabetical order, from N training documents as positions in ``words``.

    Bounds are those of scikit-learn's ``CountVectorizer``, but ``max_vocab`` ranks by number of documents.
    """
    df = np.zeros(len(words), np.int64)
    for ids in documents:
        df[np.unique(ids)] += 1
    low, high = (bound * len(documents) if isinstance(bound, float) else bound for bound in (min_df, max_df))
    known = {word: number for word, number in zip(words, df.tolist(), strict=True) if number}
    for word in stop_words:
        known.pop(word, None)
    left = [word for word, number in known.items() if low <= number <= high]
    if not left:
        raise UserError(
            f"no word of the {len(documents)} training documents is left, and the most frequent that is no stop word "
            f"is in {max(known.values(), default=0)}: set min_df=1 max_df=1.0 stop_words=null, or another token_pattern"
        )
    return sorted(sorted(left, key=lambda word: (-known[word], word))[:max_vocab])


def read_words(path: str, setting: str) -> list[str]:
    """Return the words of a UTF-8 file, one a line, composed (NFC); UserError if one is missing or repeated."""
    try:
        text = unicodedata.normalize("NFC", Path(path).read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{setting} must be a UTF-8 file with one word a line, got {path} ({error})") from error
    words = [word.strip() for word in text.rstrip().split("\n")]
    first_line = {word: line for line, word in reversed([*enumerate(words, start=1)])}
    for line, word in enumerate(words, start=1):
        if not word or first_line[word] != line:
            raise UserError(f"{setting} must have a different word in each line, {path} has {word!r} in line {line}")
    return words


def stop_list(stop_words: str | None) -> frozenset[str]:
    """Return English stop words, those of a file, or none."""
    if stop_words is None:
        return frozenset()
    if stop_words == "english":
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # takes a second to import

        return ENGLISH_STOP_WORDS.union(CONTRACTIONS.split())
    return frozenset(map(normalize, read_words(stop_words, "stop_words")))


def split_rows(places: list[str | None], val_fraction: float, test_fraction: float, seed: int) -> dict[str, np.ndarray]:
    """Return the sorted positions of each split; drawn are all where ``places`` is None, or ``val`` where it lacks."""
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
    """Return the sorted names of the classes, and each document's number, -1 for none; a single class is none."""
    names = sorted({label for label in labels if label is not None})
    names = sorted(names, key=int) if all(map(str.isdecimal, names)) else names
    names = names if len(names) > 1 else []
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(names)}
    return names, np.array([numbers.get(label, -1) for label in labels], np.int64)
