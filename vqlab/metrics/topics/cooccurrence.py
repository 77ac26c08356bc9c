"""Numbers of windows or documents of a reference corpus in which the words of a topic occur together."""

from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csc_array, csr_array, sparray, spmatrix

from vqlab.errors import UserError

CHUNK = 2**18  # tokens per chunk, which takes some tens of megabytes


class Cooccurrence(NamedTuple):
    """Counts of the words of K topics, n each."""

    total: int  # number of windows or documents
    joint: np.ndarray  # (K, n, n) float64, how many of them contain both words i and j of a topic; word i at [i, i]


class ReferenceCorpus:
    """Token sequences in which the words of topics are counted.

    Args:
        ids: (T,) word ids of all documents, in [0, V); -1 for a word outside the vocabulary.
        offsets: (N + 1,) position of the first token of each document, and T. Empty documents count as documents.
        vocab_size: Number of words, V.

    Example:
        >>> reference = ReferenceCorpus([0, 1, 2, 0, 1], offsets=[0, 3, 5], vocab_size=3)
        >>> counts = reference.cooccurrence([[0, 2]], window=2)
        >>> counts.total, counts.joint[0].tolist()  # 01, 12 and 01
        (3, [[2.0, 0.0], [0.0, 1.0]])
    """

    def __init__(self, ids: ArrayLike, offsets: ArrayLike, vocab_size: int) -> None:
        self.ids, self.offsets = np.asarray(ids), np.asarray(offsets, np.int64)
        self.vocab_size, self.has_order = vocab_size, True
        if [*self.offsets[[0, -1]]] != [0, len(self.ids)] or len(self.offsets) < 2 or (np.diff(self.offsets) < 0).any():
            raise UserError(f"offsets must be (N + 1 >= 2,) and rise from 0 to the number of ids, {len(self.ids)}")
        if len(self.ids) and not (self.ids.min() >= -1 and self.ids.max() < vocab_size):
            raise UserError(f"ids must be in [-1, {vocab_size}), got {self.ids.min()} to {self.ids.max()}")

    @classmethod
    def from_counts(cls, counts: sparray | spmatrix | np.ndarray) -> "ReferenceCorpus":
        """Build a corpus from word counts (N, V), which have documents but no windows."""
        rows = csr_array(counts, copy=True)
        rows.eliminate_zeros()
        corpus = cls(rows.indices, rows.indptr, rows.shape[1])
        corpus.has_order = False
        return corpus

    def cooccurrence(self, top_words: ArrayLike, window: int | None = None) -> Cooccurrence:
        """Count windows of ``window`` tokens, or documents if it is None, for ``top_words`` (K, n).

        The windows are those of gensim's ``CoherenceModel``, like published values: one for each position where
        ``window`` tokens fit, and one for a shorter document. A word that occurs several times in a window is removed
        with its first occurrence, until it enters again; true boolean windows give slightly higher counts.
        """
        if window is not None and not (self.has_order and window >= 1):
            rule = "at least 1" if self.has_order else "None for a corpus of word counts, which has no order"
            raise UserError(f"window must be {rule}, got {window}")
        words = np.asarray(top_words)
        if words.ndim != 2 or words.shape[1] < 2 or words.dtype.kind not in "iu":
            raise UserError(f"top_words must be (K, n >= 2) integers, got {words.shape} {words.dtype}")
        if words.min() < 0 or words.max() >= self.vocab_size:
            raise UserError(f"top_words must be in [0, {self.vocab_size}), got {words.min()} to {words.max()}")
        if (np.diff(np.sort(words, 1), axis=1) == 0).any():
            raise UserError("top_words must be distinct in a topic, but a topic has a word twice")
        if window is None:
            columns = [self.presence[:, topic] for topic in words]
            return Cooccurrence(len(self.offsets) - 1, np.stack([(c.T @ c).toarray() for c in columns]).astype(float))
        distinct, place = np.unique(words, return_inverse=True)
        if distinct.size**2 > words.size * words.shape[1]:
            return self._count(words, window)
        # Collapsed topics have nearly all words in common: count all words as one topic.
        total, joint = self._count(distinct[None], window)
        place = place.reshape(words.shape)
        return Cooccurrence(total, joint[0][place[:, :, None], place[:, None, :]])

    @cached_property
    def presence(self) -> csc_array:
        """Whether a document (N,) contains a word (V,), as 1 or 0."""
        known = self.ids >= 0
        offsets = np.concatenate([[0], np.cumsum(known)])[self.offsets]
        ids = self.ids[known]
        shape = (len(offsets) - 1, self.vocab_size)
        rows = csr_array((np.ones(len(ids), np.int32), ids, offsets), shape).tocsc()
        rows.sum_duplicates()
        rows.data[:] = 1
        return rows

    def _count(self, words: np.ndarray, window: int) -> Cooccurrence:
        """Count the windows of ``words`` (K, n) by the intervals of windows that contain a word."""
        wanted = np.zeros(self.vocab_size + 1, bool)  # the last one is -1
        wanted[words] = True
        joint, total, last = np.zeros((*words.shape, words.shape[1])), 0, 0
        while last < len(self.offsets) - 1:  # documents of at most CHUNK tokens together, or one longer document
            first = last
            last = max(int(np.searchsorted(self.offsets, self.offsets[first] + CHUNK, "right")) - 1, first + 1)
            offsets = self.offsets[first : last + 1]
            ids = self.ids[offsets[0] : offsets[-1]]
            places = np.flatnonzero(wanted[ids])
            joint += overlaps(words, intervals(ids[places], places, offsets - offsets[0], window), len(ids))
            total += int(np.maximum(np.diff(offsets) - window + 1, 1).sum())
        return Cooccurrence(total, joint)


def intervals(words: np.ndarray, places: np.ndarray, offsets: np.ndarray, window: int) -> tuple[np.ndarray, ...]:
    """Return word, first and last window of the intervals in which words are present, disjoint for each word.

    A window has the number of its first token. The tokens ``places`` (R,) are ``words`` (R,); documents begin at
    ``offsets`` (N + 1,).
    """
    order = np.argsort(words, kind="stable")
    words, places = words[order].astype(np.int64), places[order]
    document = np.searchsorted(offsets, places, "right") - 1
    begin = offsets[document]
    last_window = begin + np.maximum(offsets[document + 1] - begin - window, 0)
    enters = np.maximum(places - window + 1, begin)
    # A word is present until its oldest occurrence in the window that it enters leaves.
    stride = offsets[-1] + 1
    oldest = np.searchsorted(words * stride + places, words * stride + enters)
    kept = np.diff(oldest, prepend=-1) > 0  # an occurrence that enters while the word is present changes nothing
    return words[kept], enters[kept], np.minimum(places[oldest], last_window)[kept]


def overlaps(top_words: np.ndarray, present: tuple[np.ndarray, ...], num_tokens: int) -> np.ndarray:
    """Return the numbers of windows (K, n, n) with both words of a topic, from the :func:`intervals` ``present``."""
    (num_topics, n), (words, enters, leaves) = top_words.shape, present
    # A slot is a word of a topic; repeat the intervals of a word for each of its slots.
    by_word = np.argsort(top_words, axis=None, kind="stable")
    sorted_words = top_words.ravel()[by_word]
    first_slot = np.searchsorted(sorted_words, words)
    interval, nth = repeated(np.searchsorted(sorted_words, words, "right") - first_slot)
    slot, enters, leaves = by_word[first_slot[interval] + nth], enters[interval], leaves[interval]
    # Sorted by topic and entry, an interval is followed by those that enter before it ends.
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
    """Return each index i ``times[i]`` times, and the numbers of the repetitions."""
    index = np.repeat(np.arange(len(times)), times)
    return index, np.arange(len(index)) - np.repeat(np.cumsum(times) - times, times)
