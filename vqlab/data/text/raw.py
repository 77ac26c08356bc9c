"""Base of the sources of raw text: tokenization, choice of the vocabulary, counts and splits."""

import logging
import re
import unicodedata
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from vqlab.data.datamodule import ValFraction
from vqlab.data.files import reading
from vqlab.data.split_folders import SPLITS
from vqlab.data.text.base import BagsOfWords, Corpus, TextDataModule, split_documents
from vqlab.errors import UserError
from vqlab.metrics import ReferenceCorpus
from vqlab.training.data_format import Format, check_format
from vqlab.validation import Count, Fraction, Probability

# At least three letters of any alphabet, without digits and underscores; marked_words extends it beyond ASCII.
WORD = r"\b[^\W\d_]{3,}\b"
CJ = "\u3040-\u30ff\u3400-\u9fff"  # kana and ideographs
SYLLABLES = f"[{CJ}\uac00-\ud7a3]"  # with hangul: two of them are a word
# What WORD finds in don't, doesn't, ...: scikit-learn's stop words do not contain these.
NEGATIONS = "ain aren couldn didn doesn don hadn hasn haven isn mightn mustn needn shan shouldn wasn weren won wouldn"

SENTENCE = re.compile(f"[{CJ}]{{8,}}")  # longer than words of Chinese and almost all of Japanese

log = logging.getLogger(__name__)


class Document(NamedTuple):
    """A text with its class and split."""

    text: str
    label: str | None = None  # name of its class, if it has one
    split: str | None = None  # train, val or test; None where it is to be drawn


class RawTextDataModule(TextDataModule):
    """Raw texts, which a source yields in :meth:`read`; the vocabulary is that of the training documents.

    Args:
        val_fraction: Fraction of the training documents for validation, if the source has no such split.
        test_fraction: Fraction of the documents for test, if the source has no splits; 0 keeps none.
        tokenizer: What separates words: ``spaces``; for texts without them ``chinese`` (jieba's dictionary, the extra
            ``vqlab[chinese]``) or ``japanese`` (Janome, ``vqlab[japanese]``).
        token_pattern: Regular expression of a word in lower-case text. Default: three letters or more, with combining
            marks, or two characters of Chinese, Japanese or Korean.
        min_df: Leave out words that are in fewer training documents: a number of them, or as a float a fraction.
        max_df: Leave out words that are in more training documents: a number of them, or as a float a fraction.
        max_vocab: Keep this many of the other words, those in most training documents; null keeps all.
        stop_words: Words to leave out: ``english`` (scikit-learn's list), a file with one a line, or null for none.
        vocabulary_path: A file with one word a line: the vocabulary in this order, instead of the last four settings.
        **common: Arguments of :class:`~vqlab.data.text.base.TextDataModule`.
    """

    test_hint = "set test_fraction=0.1, or use `vqlab validate`"

    def __init__(
        self,
        val_fraction: ValFraction = 0.1,
        test_fraction: Probability = 0.1,
        tokenizer: Literal["spaces", "chinese", "japanese"] = "spaces",
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
        self.tokenizer, self.token_pattern, self.vocabulary_path = tokenizer, token_pattern, vocabulary_path
        self.min_df, self.max_df, self.max_vocab = min_df, max_df, max_vocab
        self.stop_words = stop_list(stop_words)
        find = word_finder(token_pattern)
        self._is_trained = False  # whether the vocabulary is that of a checkpoint
        self._given = None if vocabulary_path is None else read_words(vocabulary_path, "vocabulary_path")
        if lost := [word for word in self._given or () if find(word) != [word]]:
            log.warning(f"token_pattern never matches {len(lost)} words of vocabulary_path: {', '.join(lost[:5])}")

    def apply_format(self, trained: Format) -> None:
        if words := trained.get("vocabulary"):
            if self._given is not None and not self._is_trained:
                check_format({"vocabulary": words}, {"vocabulary": self._given}, self.option)
            self._given, self._is_trained = [*map(str, words)], True
        super().apply_format(trained)

    def option(self, name: str, value: Any) -> str:
        return "vocabulary_path=null" if name == "vocabulary" else super().option(name, value)

    @abstractmethod
    def read(self) -> Iterator[Document]:
        """Yield all documents, always in the same order."""

    def load_corpus(self) -> Corpus:
        read: list[Document] = []
        separate = word_separator(self.tokenizer)

        def texts() -> Iterator[str]:
            for document in self.read():
                read.append(document._replace(text=""))  # the texts may not fit into memory
                yield separate(document.text)

        words, documents = tokenize(texts(), self.token_pattern)
        if self.tokenizer == "spaces" and sum(map(len, map(SENTENCE.findall, words))) > len(words) / 4:
            raise UserError("the texts have no spaces between words: set tokenizer=chinese or tokenizer=japanese")
        places = [document.split for document in read]
        try:
            rows = split_rows(places, self.val_fraction, self.test_fraction, self.seed)
        except UserError:
            if not self._is_trained:
                raise
            rows = dict.fromkeys(SPLITS, np.arange(len(places)))  # a trained model accepts any number of documents
        vocabulary = self._given
        if vocabulary is None:
            vocabulary = self._choose_words(words, [documents[row] for row in rows["train"]])
        column_of = {word: column for column, word in enumerate(vocabulary)}
        columns = np.array([column_of.get(word, -1) for word in words], np.int32)
        class_names, classes = number_labels([document.label for document in read])
        known = [ids[ids >= 0] for ids in map(columns.__getitem__, documents)]
        ids, offsets = np.concatenate([np.empty(0, np.int32), *known]), np.cumsum([0, *map(len, known)])
        counts = csr_matrix((np.ones(len(ids), np.float32), ids, offsets), (len(known), len(vocabulary)))
        counts.sum_duplicates()
        splits = {split: BagsOfWords(counts[chosen], classes[chosen], chosen) for split, chosen in rows.items()}
        train = [known[row] for row in rows["train"] if len(known[row])]
        offsets = np.cumsum([0, *map(len, train)])
        reference = ReferenceCorpus(np.concatenate(train), offsets, len(vocabulary)) if train else None
        return Corpus(splits, vocabulary, class_names, reference)

    def _choose_words(self, words: list[str], documents: list[np.ndarray]) -> list[str]:
        """Return the vocabulary in alphabetical order, from training documents as positions in ``words``.

        As scikit-learn's ``CountVectorizer``, except that ``max_vocab`` ranks words by their number of documents.
        """
        df = np.bincount(np.concatenate([*map(np.unique, documents)]), minlength=len(words)).tolist()
        known = {word: count for word, count in zip(words, df, strict=True) if count and word not in self.stop_words}
        low, high = (len(documents) * n if isinstance(n, float) else n for n in (self.min_df, self.max_df))
        left = [word for word, count in known.items() if low <= count <= high]
        if not left:
            raise UserError(
                f"no word of the {len(documents)} training documents is left, and the most frequent other than stop "
                f"words is in {max(known.values(), default=0)}: set min_df=1 max_df=1.0 stop_words=null, or another "
                "token_pattern"
            )
        return sorted(sorted(left, key=lambda word: (-known[word], word))[: self.max_vocab])


def tokenize(texts: Iterable[str], pattern: str = WORD) -> tuple[list[str], list[np.ndarray]]:
    """Return the different words of all texts, and each text as positions in these."""
    find = word_finder(pattern)
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__  # a new word gets the next number
    documents = [np.array([numbers[word] for word in find(text)], np.int32) for text in texts]
    return [*numbers], documents


def word_separator(tokenizer: str) -> Callable[[str], str]:
    """Return a function that puts spaces between the words of a text."""
    if tokenizer == "spaces":
        return lambda text: text
    cut: Callable[[str], Iterable[Any]]
    try:
        if tokenizer == "chinese":
            from rjieba import cut
        else:
            from janome.tokenizer import Tokenizer

            cut = Tokenizer(wakati=True).tokenize
    except ImportError as error:
        raise UserError(f"tokenizer={tokenizer} needs a package: pip install 'vqlab[{tokenizer}]'") from error
    return lambda text: " ".join(cut(text))


def word_finder(pattern: str) -> Callable[[str], list[str]]:
    """Return a function that finds the words of a text, in lower case and composed (NFC)."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"token_pattern is not a regular expression ({error}): got {pattern!r}") from error
    if compiled.groups > 1:
        raise UserError(f"token_pattern must have at most one group, got {pattern!r}: write (?:...) for others")
    find = compiled.findall
    find_any = marked_words().findall if pattern == WORD else find
    return lambda text: find(text.lower()) if text.isascii() else find_any(normalize(text))


def normalize(text: str) -> str:
    """Return a text in lower case and composed (NFC), without the dot that ``lower()`` adds to a Turkish i."""
    return unicodedata.normalize("NFC", text.lower().replace("i\u0307", "i"))


@cache
def marked_words() -> re.Pattern[str]:
    """Return ``WORD`` beyond ASCII: combining marks, such as vowel signs of Hindi or Arabic, are parts of words."""
    codes = [code for code in range(0x300, 0x10000) if unicodedata.category(chr(code)) in ("Mn", "Mc")]
    mark = f"[\u200c\u200d{re.escape(''.join(map(chr, codes)))}]"
    letter = r"[^\W\d_]"
    word = rf"{letter}(?:{letter}|{mark}){{2,}}|{SYLLABLES}{{2}}"
    return re.compile(rf"(?<!\w)(?<!\w{mark})(?:{word})(?!\w|{mark})")


def read_words(path: str, setting: str) -> list[str]:
    """Return the words of a UTF-8 file, one a line, composed (NFC); UserError for empty and repeated lines."""
    seen = {""}
    with reading(path, f"is not a UTF-8 file with a different word in each line ({{reason}}): set {setting}=FILE"):
        text = unicodedata.normalize("NFC", Path(path).read_text("utf-8-sig"))
        words = [word.strip() for word in text.rstrip().split("\n")]
        for line, word in enumerate(words, start=1):
            if word in seen:
                raise ValueError(f"{word!r} in line {line}")
            seen.add(word)
    return words


def stop_list(stop_words: str | None) -> frozenset[str]:
    """Return English stop words, those of a file, or none."""
    if stop_words == "english":
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # takes a second to import

        return ENGLISH_STOP_WORDS.union(NEGATIONS.split())
    return frozenset(map(normalize, read_words(stop_words, "stop_words") if stop_words else ()))


def split_rows(places: list[str | None], val_fraction: float, test_fraction: float, seed: int) -> dict[str, np.ndarray]:
    """Return the sorted positions of each split; without ``places`` all are drawn, without ``val`` this split is."""
    if not any(places):
        return split_documents(len(places), val_fraction, test_fraction, seed)
    where = np.array([place or "" for place in places])
    rows = {split: np.flatnonzero(where == split) for split in SPLITS if split in places}
    if not all(places) or "train" not in rows:
        counts = ", ".join(f"{len(positions):,} of {split}" for split, positions in rows.items())
        raise UserError(
            "each document must have a split, and at least one must be in train, "
            f"got {counts} of {len(places):,} documents: set split_column=NAME to a column without gaps"
        )
    if "val" in rows:
        return rows
    train = rows.pop("train")
    drawn = split_documents(len(train), val_fraction, 0.0, seed)
    return {split: train[chosen] for split, chosen in drawn.items()} | rows


def number_labels(labels: list[str | None]) -> tuple[list[str], np.ndarray]:
    """Return the sorted names of the classes, and each document's label, -1 for none; a single class is none."""
    names = sorted({label for label in labels if label is not None})
    names = sorted(names, key=int) if all(map(str.isdecimal, names)) else names
    names = names if len(names) > 1 else []
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(names)}
    return names, np.array([numbers.get(label, -1) for label in labels], np.int64)
