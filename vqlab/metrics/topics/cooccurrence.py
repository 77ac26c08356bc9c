"""Numbers of windows or documents of a reference corpus in which the words of a topic occur together."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csc_array, csr_array, sparray, spmatrix

from vqlab.errors import UserError

CHUNK = 2**18  # tokens that are counted at once, in some tens of megabytes


@dataclass(frozen=True)
class Cooccurrence:
    """Counts of the words of K topics, n each."""

    total: int  # number of windows or documents
    joint: np.ndarray  # (K, n, n) float64: how many of them hold both words i and j of a topic; word i at [i, i]


class ReferenceCorpus:
    """Token sequences in which the words of topics are counted.

    Each call of ``cooccurrence`` counts the given words only. A word is present in intervals of windows, so the time
    depends on the number of occurrences of the top words and hardly on the size of the window.

    Args:
        ids: (T,) word ids of all documents, in [0, V); -1 is the place of a word that is not in the vocabulary.
        offsets: (N + 1,) first token of each document, and T. Empty documents count as documents.
        vocab_size: Number of words, V.

    Raises:
        UserError: If there is no document, or ids or offsets are out of range.

    Example:
        >>> reference = ReferenceCorpus([0, 1, 2, 0, 1], offsets=[0, 3, 5], vocab_size=3)
        >>> counts = reference.cooccurrence([[0, 2]], window=2)
        >>> counts.total, counts.joint[0].tolist()  # 01, 12 and 01
        (3, [[2.0, 0.0], [0.0, 1.0]])
    """

    def __init__(self, ids: ArrayLike, offsets: ArrayLike, vocab_size: int) -> None:
        self.ids, self.offsets = np.asarray(ids), np.asarray(offsets, np.int64)
        self.vocab_size = vocab_size
        self.has_order = True
        if self.ids.ndim != 1 or self.ids.dtype.kind not in "iu":
            raise UserError(f"ids must be (T,) integers, got {self.ids.shape} {self.ids.dtype}")
        if [*self.offsets[[0, -1]]] != [0, len(self.ids)] or len(self.offsets) < 2 or (np.diff(self.offsets) < 0).any():
            raise UserError(f"offsets must be (N + 1 >= 2,) and rise from 0 to the number of ids, {len(self.ids)}")
        if len(self.ids) and not (self.ids.min() >= -1 and self.ids.max() < vocab_size):
            raise UserError(f"ids must be in [-1, {vocab_size}), got {self.ids.min()} to {self.ids.max()}")

    @classmethod
    def from_counts(cls, counts: sparray | spmatrix | np.ndarray) -> "ReferenceCorpus":
        """Make a corpus of bags of words (N, V), which have documents but no windows."""
        rows = csr_array(counts, copy=True)
        rows.eliminate_zeros()
        corpus = cls(rows.indices, rows.indptr, rows.shape[1])
        corpus.has_order = False
        return corpus

    def cooccurrence(self, top_words: ArrayLike, window: int | None = None) -> Cooccurrence:
        """Count windows of ``window`` tokens, or documents where it is None.

        The windows are those of gensim's ``CoherenceModel``: one for each position of the document where ``window``
        tokens fit, and one for a shorter document. As there, a word that occurs several times in a window is lost as
        soon as its first occurrence leaves, until it enters again. Published values are made of these counts, which are
        lower than those of true boolean windows (on 20 Newsgroups NPMI falls by .004 and C_V by .01 to .02).

        Args:
            top_words: (K, n) word ids, no word twice in a topic.
            window: Tokens.

        Raises:
            UserError: If words are out of range or repeated, or a corpus of word counts is asked for windows.
        """
        if window is not None and not (self.has_order and window >= 1):
            rule = "at least 1" if self.has_order else "None for a corpus of word counts, which has no order"
            raise UserError(f"window must be {rule}, got {window}")
        words = checked(top_words, self.vocab_size)
        if window is None:
            shown = [self.presence[:, topic] for topic in words]
            return Cooccurrence(len(self.offsets) - 1, np.stack([(s.T @ s).toarray() for s in shown]).astype(float))
        distinct, place = np.unique(words, return_inverse=True)
        # Collapsed topics, which share nearly all words, are counted as one topic with all words.
        collapsed = distinct.size**2 <= words.size * words.shape[1]
        joint, total = self.count(distinct[None] if collapsed else words, window)
        if collapsed:
            place = place.reshape(words.shape)
            joint = joint[0][place[:, :, None], place[:, None, :]]
        return Cooccurrence(total, joint)

    @cached_property
    def presence(self) -> csc_array:
        """1 where a document (N,) has a word (V,)."""
        known = self.ids >= 0
        offsets = np.concatenate([[0], np.cumsum(known)])[self.offsets]
        ids = self.ids[known]
        shape = (len(offsets) - 1, self.vocab_size)
        rows = csr_array((np.ones(len(ids), np.int32), ids, offsets), shape).tocsc()
        rows.sum_duplicates()
        rows.data[:] = 1
        return rows

    def count(self, words: np.ndarray, window: int) -> tuple[np.ndarray, int]:
        """Return the counts (K, n, n) of ``words`` (K, n), and the number of windows."""
        wanted = np.zeros(self.vocab_size + 1, bool)  # the last one is -1
        wanted[words] = True
        joint, total = np.zeros((*words.shape, words.shape[1])), 0
        for first, last in chunks(self.offsets, CHUNK):
            offsets = self.offsets[first : last + 1]
            ids = self.ids[offsets[0] : offsets[-1]]
            places = np.flatnonzero(wanted[ids])
            present = intervals(ids[places], places, offsets - offsets[0], window)
            joint += overlaps(words, *present, len(ids))
            total += int(np.maximum(np.diff(offsets) - window + 1, 1).sum())
        return joint, total


def checked(top_words: ArrayLike, vocab_size: int) -> np.ndarray:
    """Return ``top_words`` as (K, n) int64."""
    words = np.asarray(top_words)
    if words.ndim != 2 or words.shape[1] < 2 or words.dtype.kind not in "iu":
        raise UserError(f"top_words must be (K, n >= 2) integers, got {words.shape} {words.dtype}")
    if words.min() < 0 or words.max() >= vocab_size:
        raise UserError(f"top_words must be in [0, {vocab_size}), got {words.min()} to {words.max()}")
    if (np.diff(np.sort(words, 1), axis=1) == 0).any():
        raise UserError("top_words must be distinct in a topic, but a topic has a word twice")
    return words.astype(np.int64)


def chunks(offsets: np.ndarray, size: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of documents of at most ``size`` tokens each, or of one longer document."""
    first = 0
    while first < len(offsets) - 1:
        last = int(np.searchsorted(offsets, offsets[first] + size, "right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last


def intervals(
    words: np.ndarray, places: np.ndarray, offsets: np.ndarray, window: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return word, first and last window of the intervals in which words are present, disjoint for each word.

    A window has the number of its first token. ``words`` (R,) are at the tokens ``places`` (R,) of the documents that
    begin at ``offsets`` (N + 1,).
    """
    order = np.argsort(words, kind="stable")
    words, places = words[order].astype(np.int64), places[order]
    document = np.searchsorted(offsets, places, "right") - 1
    begin = offsets[document]
    last_window = begin + np.maximum(offsets[document + 1] - begin - window, 0)
    enters = np.maximum(places - window + 1, begin)
    # A word stays until the oldest occurrence in its first window leaves.
    stride = offsets[-1] + 1
    oldest = np.searchsorted(words * stride + places, words * stride + enters)
    kept = np.diff(oldest, prepend=-1) > 0  # what enters while the word is present adds nothing
    leaves = np.minimum(places[oldest], last_window)
    return words[kept], enters[kept], leaves[kept]


def overlaps(
    top_words: np.ndarray, words: np.ndarray, enters: np.ndarray, leaves: np.ndarray, num_tokens: int
) -> np.ndarray:
    """Return how many windows (K, n, n) have both words of a topic, from the ``intervals`` of the words."""
    num_topics, n = top_words.shape
    # A slot is a word of a topic; intervals are repeated for each slot of their word.
    by_word = np.argsort(top_words, axis=None, kind="stable")
    sorted_words = top_words.ravel()[by_word]
    first_slot = np.searchsorted(sorted_words, words)
    of, nth = repeated(np.searchsorted(sorted_words, words, "right") - first_slot)
    slot, enters, leaves = by_word[first_slot[of] + nth], enters[of], leaves[of]
    # In the order of topic and entry, an interval is followed by those that enter while it lasts.
    topic_begin = slot // n * (num_tokens + 1)
    order = np.argsort(topic_begin + enters)
    slot, enters, leaves, topic_begin = slot[order], enters[order], leaves[order], topic_begin[order]
    reach = np.searchsorted(topic_begin + enters, topic_begin + leaves, "right")
    left, nth = repeated(reach - np.arange(len(slot)) - 1)
    right = left + 1 + nth
    shared = np.minimum(leaves[left], leaves[right]) - enters[right] + 1
    pairs = np.bincount(slot[left] * n + slot[right] % n, shared, num_topics * n * n).reshape(num_topics, n, n)
    alone = np.bincount(slot, leaves - enters + 1, num_topics * n).reshape(num_topics, n)
    return pairs + pairs.transpose(0, 2, 1) + alone[:, :, None] * np.eye(n)


def repeated(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each index i ``times[i]`` times, and the number of the repetition."""
    index = np.repeat(np.arange(len(times)), times)
    return index, np.arange(len(index)) - np.repeat(np.cumsum(times) - times, times)
