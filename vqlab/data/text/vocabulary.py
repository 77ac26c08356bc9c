"""Words of texts: in what order they come, and which of them make the vocabulary.

Shapes: N documents, V words of the vocabulary, T words of all texts in a row, U different ones among them.
"""

import logging
import re
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from vqlab.data.text.base import Tokens, document_frequency
from vqlab.errors import UserError

# Three letters or more of any alphabet; names with digits or underscores are no words. See marked_words for the rest.
WORD = r"\b[^\W\d_]{3,}\b"
SYLLABLES = "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]"  # kana, ideographs, hangul: two of them make a word
# Scripts without spaces between words: Thai, Lao, Burmese, Khmer, kana, ideographs.
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
LONG = 7  # characters; words of these scripts have fewer on average, sentences more
# What WORD leaves of don't, doesn't, ...; scikit-learn's list of stop words knows them with their apostrophe alone.
CONTRACTIONS = (
    "ain aren couldn didn doesn don hadn hasn haven isn mightn mustn needn shan shouldn wasn weren won wouldn"
)

log = logging.getLogger(__name__)


def tokenize(texts: Iterable[str], pattern: str = WORD) -> tuple[list[str], Tokens]:
    r"""Return the different words of texts, in lower case and composed (NFC), and the texts as numbers of these words.

    Args:
        texts: The documents; they are read once and not kept.
        pattern: Regular expression of a word; ``WORD`` knows combining marks, too.

    Example:
        >>> words, tokens = tokenize(["The cat sat.", "", "Cats: see the CAT!"])
        >>> words, tokens.ids.tolist(), tokens.offsets.tolist()
        (['the', 'cat', 'sat', 'cats', 'see'], [0, 1, 2, 3, 4, 0, 1], [0, 3, 3, 7])
    """
    find = word_finder(pattern)
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__  # a new word gets the next number
    ids, offsets = array("i"), array("q", [0])
    for text in texts:
        ids.extend(map(numbers.__getitem__, find(text)))
        offsets.append(len(ids))
    words = list(numbers)
    warn_of_sentences(words)
    return words, Tokens(np.asarray(ids, np.int32), np.asarray(offsets, np.int64))


def word_finder(pattern: str) -> Callable[[str], list[str]]:
    """Return a function that finds the words of a text.

    Example:
        >>> word_finder(WORD)("A naïve cat2, हिन्दी, 経済 & İstanbul")
        ['naïve', 'हिन्दी', '経済', 'istanbul']
    """
    find = re.compile(pattern).findall
    find_any = marked_words().findall if pattern == WORD else find
    return lambda text: find(text.lower()) if text.isascii() else find_any(normalize(text))


def normalize(text: str) -> str:
    """Return a text in lower case and composed form (NFC); the dot that lower() puts on a Turkish i is left out."""
    return unicodedata.normalize("NFC", text.lower().replace("i\u0307", "i"))


@cache
def marked_words() -> re.Pattern[str]:
    r"""Return ``WORD`` for texts beyond ASCII.

    Python's ``\w`` has no combining marks, which are the vowels of Hindi, Thai or Arabic: here they and joiners count
    like letters within a word. Two ideographs, kana or hangul syllables are a word, too.
    """
    codes = [code for code in range(0x300, 0x10000) if unicodedata.category(chr(code)) in ("Mn", "Mc")]
    mark = f"[\u200c\u200d{re.escape(''.join(map(chr, codes)))}]"
    letter = r"[^\W\d_]"
    word = rf"{letter}(?:{letter}|{mark}){{2,}}|{SYLLABLES}{{2}}"
    return re.compile(rf"(?<!\w)(?<!\w{mark})(?:{word})(?!\w|{mark})")


def warn_of_sentences(words: list[str]) -> None:
    """Warn if words in a script without spaces are so long that they must be sentences."""
    unspaced = [word for word in words if UNSPACED.match(word)]
    if 10 * len(unspaced) > len(words) and sum(map(len, unspaced)) > LONG * len(unspaced):
        log.warning(
            f"{len(unspaced):,} of {len(words):,} words look like whole sentences, such as {unspaced[0]:.30}: put "
            "spaces between the words of Chinese, Japanese or Thai texts first, by a word segmenter"
        )


def pick(tokens: Tokens, rows: np.ndarray, columns: np.ndarray) -> Tokens:
    """Return the documents at the sorted ``rows``, with ``columns[u]`` for word u, left out where that is -1.

    Example:
        >>> _, tokens = tokenize(["red blue red", "green", "blue red"])
        >>> picked = pick(tokens, np.array([0, 2]), np.array([-1, 0, 1], np.int32))
        >>> picked.ids.tolist(), picked.offsets.tolist()
        ([0, 0], [0, 1, 2])
    """
    lengths = np.diff(tokens.offsets)
    chosen = np.zeros(len(lengths), bool)
    chosen[rows] = True
    ids = columns[tokens.ids[np.repeat(chosen, lengths)]]
    kept, lengths = ids >= 0, lengths[rows]
    starts, full = np.cumsum(lengths) - lengths, lengths > 0
    if full.any():  # reduceat gives an empty document the value of the next one, so these stay out
        lengths[full] = np.add.reduceat(kept, starts[full], dtype=np.int64)
    return Tokens(ids[kept], np.concatenate([[0], np.cumsum(lengths)]))


def count_words(tokens: Tokens, vocab_size: int) -> csr_matrix:
    """Return how often each of ``vocab_size`` words is in each document, (N, V) float32."""
    ones = np.ones(len(tokens.ids), np.float32)
    counts = csr_matrix((ones, tokens.ids, tokens.offsets), (len(tokens.offsets) - 1, vocab_size), copy=True)
    counts.sum_duplicates()
    return counts


def choose_words(
    words: list[str],
    counts: csr_matrix,
    min_df: int | float = 1,
    max_df: int | float = 1.0,
    max_vocab: int | None = None,
    stop_words: frozenset[str] = frozenset(),
) -> list[str]:
    """Return the vocabulary of the training documents, in alphabetical order.

    Args:
        words: U words.
        counts: (N, U), how often each is in each training document.
        min_df: Leave out words that are in fewer documents: a number of them, or as a float a share.
        max_df: Leave out words that are in more documents: a number of them, or as a float a share.
        max_vocab: Keep that many of the others, those in most documents; of equals, the first in the alphabet.
        stop_words: Leave these out.

    Raises:
        UserError: If no word is left; it names the bound that took the last.

    Example:
        >>> words, tokens = tokenize(["the cat sat", "the cat ran", "the dog ran", "the end"])
        >>> choose_words(words, count_words(tokens, len(words)), min_df=2, max_df=0.9)
        ['cat', 'ran']
    """
    total, df = counts.shape[0], document_frequency(counts)
    fewest, most = (bound * total if isinstance(bound, float) else bound for bound in (min_df, max_df))
    left = {word: int(number) for word, number in zip(words, df, strict=True) if number}
    if not left:
        raise UserError(f"none of the {total} training documents holds a word: set --data.token_pattern to what one is")
    left = {word: number for word, number in left.items() if word not in stop_words}
    if not left:
        raise UserError(f"all words of the {total} training documents are stop words: set --data.stop_words=null")
    top = max(left.values())
    left = {word: number for word, number in left.items() if number >= fewest}
    if not left:
        raise UserError(
            f"no word is in min_df={min_df} of the {total} training documents, the most frequent is in {top}: "
            f"set --data.min_df={top} or smaller"
        )
    least = min(left.values())
    left = {word: number for word, number in left.items() if number <= most}
    if not left:
        raise UserError(
            f"all words that min_df={min_df} leaves are in more than max_df={max_df} of the {total} training "
            f"documents, the rarest is in {least}: set --data.max_df={least} or larger"
        )
    return sorted(sorted(left, key=lambda word: (-left[word], word))[:max_vocab])


def read_words(path: str, setting: str) -> list[str]:
    """Return the words of a file, one a line, composed (NFC) as those of texts are.

    Raises:
        UserError: If it is missing, not UTF-8 or empty, or has an empty line or the same word twice.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} is not a file: set --data.{setting} to a file with one word a line")
    try:
        text = unicodedata.normalize("NFC", Path(path).read_text("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: save it as that, or set --data.{setting} to another file") from error
    words = [line.strip() for line in text.rstrip().split("\n")]
    if words == [""]:
        raise UserError(f"{path} is empty: set --data.{setting} to a file with one word a line")
    lines: dict[str, int] = {}
    for number, word in enumerate(words, start=1):
        if not word:
            raise UserError(f"{path} has an empty line {number}: put one word into each line (--data.{setting})")
        if word in lines:
            raise UserError(
                f"{path} has {word!r} in the lines {lines[word]} and {number}: leave one out (--data.{setting})"
            )
        lines[word] = number
    return words


def stop_list(stop_words: str | None) -> frozenset[str]:
    """Return English stop words, those of a file, or none."""
    if stop_words is None:
        return frozenset()
    if stop_words == "english":
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # takes a second to import

        return ENGLISH_STOP_WORDS.union(CONTRACTIONS.split())
    return frozenset(normalize(word) for word in read_words(stop_words, "stop_words"))
