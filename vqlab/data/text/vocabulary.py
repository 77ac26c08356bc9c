"""Words of texts, and the choice of the vocabulary.

Shapes: N documents, V words of the vocabulary, T words of all documents in a row, U different ones among them.
"""

import logging
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from vqlab.data.text.base import Tokens
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


def tokenize(texts: Iterable[str], pattern: str = WORD) -> tuple[list[str], list[np.ndarray]]:
    """Return the U different words of texts, in lower case and composed (NFC), and each text as numbers of its words.

    A warning is logged if the words of a script without spaces are so long that they must be sentences.

    Args:
        texts: The documents; they are read once and not kept.
        pattern: Regular expression of a word.

    Example:
        >>> words, documents = tokenize(["The cat sat.", "", "Cats: see the CAT!"])
        >>> words, [ids.tolist() for ids in documents]
        (['the', 'cat', 'sat', 'cats', 'see'], [[0, 1, 2], [], [3, 4, 0, 1]])
    """
    find = word_finder(pattern)
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__  # a new word gets the next number
    documents = [np.array([numbers[word] for word in find(text)], np.int32) for text in texts]
    unspaced = [word for word in numbers if UNSPACED.match(word)]
    if 10 * len(unspaced) > len(numbers) and sum(map(len, unspaced)) > LONG * len(unspaced):
        log.warning(
            f"{len(unspaced):,} of {len(numbers):,} words look like whole sentences, such as {unspaced[0]:.30}: put "
            "spaces between the words of Chinese, Japanese or Thai texts first, by a word segmenter"
        )
    return list(numbers), documents


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
    """Return a text in lower case and composed form (NFC), without the dot that lower() puts on a Turkish i."""
    return unicodedata.normalize("NFC", text.lower().replace("i\u0307", "i"))


@cache
def marked_words() -> re.Pattern[str]:
    r"""Return ``WORD`` for texts beyond ASCII.

    Python's ``\w`` lacks combining marks, which are the vowels of Hindi, Thai or Arabic: within a word they and joiners
    count as letters. Two ideographs, kana or hangul syllables are a word, too.
    """
    codes = [code for code in range(0x300, 0x10000) if unicodedata.category(chr(code)) in ("Mn", "Mc")]
    mark = f"[\u200c\u200d{re.escape(''.join(map(chr, codes)))}]"
    letter = r"[^\W\d_]"
    word = rf"{letter}(?:{letter}|{mark}){{2,}}|{SYLLABLES}{{2}}"
    return re.compile(rf"(?<!\w)(?<!\w{mark})(?:{word})(?!\w|{mark})")


def join(documents: Iterable[np.ndarray], columns: np.ndarray) -> Tokens:
    """Return documents in a row, with ``columns[u]`` for word u; words with -1 are left out.

    Example:
        >>> tokens = join([np.array([0, 1, 0]), np.array([1, 2])], np.array([-1, 0, 1], np.int32))
        >>> tokens.ids.tolist(), tokens.offsets.tolist()
        ([0, 0, 1], [0, 1, 3])
    """
    mapped = [columns[ids] for ids in documents]
    kept = [ids[ids >= 0] for ids in mapped]
    return Tokens(np.concatenate([np.empty(0, np.int32), *kept]), np.cumsum([0, *map(len, kept)]))


def count_words(tokens: Tokens, vocab_size: int) -> csr_matrix:
    """Return how often each of ``vocab_size`` words is in each document, (N, V) float32."""
    ones = np.ones(len(tokens.ids), np.float32)
    counts = csr_matrix((ones, tokens.ids, tokens.offsets), (len(tokens.offsets) - 1, vocab_size), copy=True)
    counts.sum_duplicates()
    return counts


def choose_words(
    words: list[str],
    documents: list[np.ndarray],
    min_df: int | float = 1,
    max_df: int | float = 1.0,
    max_vocab: int | None = None,
    stop_words: frozenset[str] = frozenset(),
) -> list[str]:
    """Return the vocabulary of the training documents, in alphabetical order.

    The bounds are those of scikit-learn's ``CountVectorizer``, but ``max_vocab`` ranks words by the number of documents
    that contain them, not by their occurrences, so that a word repeated in a few long documents does not count more.

    Args:
        words: U words.
        documents: The N training documents as numbers of words.
        min_df: Leave out words of fewer documents: a number of them, or as a float a fraction.
        max_df: Leave out words of more documents: a number of them, or as a float a fraction.
        max_vocab: Keep the words of the most documents only; of equals, the first in the alphabet.
        stop_words: Leave these out.

    Raises:
        UserError: If no word is left.

    Example:
        >>> choose_words(*tokenize(["the cat sat", "the cat ran", "the dog ran", "the end"]), min_df=2, max_df=0.9)
        ['cat', 'ran']
    """
    total, df = len(documents), np.zeros(len(words), np.int64)
    for ids in documents:
        df[np.unique(ids)] += 1
    low, high = (bound * total if isinstance(bound, float) else bound for bound in (min_df, max_df))
    known = {word: int(number) for word, number in zip(words, df, strict=True) if number and word not in stop_words}
    left = [word for word, number in known.items() if low <= number <= high]
    if not left:
        raise UserError(
            f"no word of the {total} training documents is left, and the most frequent that is no stop word is in "
            f"{max(known.values(), default=0)}: set min_df=1 max_df=1.0 stop_words=null, or another token_pattern"
        )
    return sorted(sorted(left, key=lambda word: (-known[word], word))[:max_vocab])


def read_words(path: str, setting: str) -> list[str]:
    """Return the words of a file, one a line, composed (NFC) as those of texts are.

    Raises:
        UserError: If it cannot be read or is not UTF-8, or a line has no word or one that is there already.
    """
    try:
        text = unicodedata.normalize("NFC", Path(path).read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{setting} must be a UTF-8 file with one word a line, got {path} ({error})") from error
    lines: dict[str, int] = {}
    for number, word in enumerate(map(str.strip, text.rstrip().split("\n")), start=1):
        if not word or lines.setdefault(word, number) != number:
            what = f"{word!r} in line {number} as in line {lines[word]}" if word else f"no word in line {number}"
            raise UserError(f"{setting} must have a different word in each line, but {path} has {what}")
    return list(lines)


def stop_list(stop_words: str | None) -> frozenset[str]:
    """Return English stop words, those of a file, or none."""
    if stop_words is None:
        return frozenset()
    if stop_words == "english":
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # takes a second to import

        return ENGLISH_STOP_WORDS.union(CONTRACTIONS.split())
    return frozenset(map(normalize, read_words(stop_words, "stop_words")))
