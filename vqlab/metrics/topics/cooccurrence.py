"""In how many windows or documents of a reference corpus the words of a topic occur together."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csc_array, csr_array, sparray, spmatrix

from vqlab.errors import UserError

CHUNK = 2**18  # tokens that are looked at together: some tens of megabytes, whatever the size of the corpus
DENSE = 2**24  # of documents times words of topics, which are counted at once in 64 MB


@dataclass(frozen=True)
class Cooccurrence:
    """Counts of the words of K topics, n each.

    Attributes:
        total: Number of windows or documents.
        joint: (K, n, n) float64, symmetric: in how many of them words i and j of a topic both occur; word i at [i, i].
    """

    total: int
    joint: np.ndarray


class ReferenceCorpus:
    """Token sequences by which topics are judged.

    They are kept, not copied, and each call of ``cooccurrence`` counts only the words that it is asked for: top words
    change during a training, and the table of all pairs of a vocabulary need not fit into memory. A word is present in
    intervals of windows, so the time depends on how often the top words occur and hardly on the size of the window.

    Args:
        ids: (T,) word ids of all documents, in [0, V); -1 is a word that is not in the vocabulary but keeps its place.
        offsets: (N + 1,) where each document begins, and T. Empty documents count as documents.
        vocab_size: Number of words, V.

    Raises:
        UserError: If there is no document, or ids or offsets are out of range.

    Example:
        >>> reference = ReferenceCorpus([0, 1, 2, 0, 1], offsets=[0, 3, 5], vocab_size=3)
        >>> reference.cooccurrence([[0, 1, 2]]).joint[0]
        array([[2., 2., 1.],
               [2., 2., 1.],
               [1., 1., 1.]])
        >>> counts = reference.cooccurrence([[0, 2]], window=2)
        >>> counts.total, counts.joint[0].tolist()  # 01, 12 and 01
        (3, [[2.0, 0.0], [0.0, 1.0]])
    """

    def __init__(self, ids: ArrayLike, offsets: ArrayLike, vocab_size: int) -> None:
        self.ids, self.offsets = np.asarray(ids), np.asarray(offsets, np.int64)
        self.vocab_size = vocab_size
        self.has_order = True
        if self.ids.ndim != 1 or self.ids.dtype.kind not in "iu":
            raise UserError(f"ids must be (T,) integers, got {self.ids.shape} {self.ids.dtype}: give word ids")
        if self.offsets.ndim != 1 or len(self.offsets) < 2:
            raise UserError("a reference corpus needs at least one document, got none: give other texts")
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.ids) or (np.diff(self.offsets) < 0).any():
            raise UserError(f"offsets must rise from 0 to the number of ids, {len(self.ids)}: give other offsets")
        if len(self.ids) and not (self.ids.min() >= -1 and self.ids.max() < vocab_size):
            raise UserError(
                f"word ids must be in [-1, {vocab_size}), got {self.ids.min()} to {self.ids.max()}: "
                "give a vocab_size that fits"
            )

    @classmethod
    def from_counts(cls, counts: sparray | spmatrix | np.ndarray) -> "ReferenceCorpus":
        """Take bags of words (N, V), which have documents but no windows.

        Example:
            >>> reference = ReferenceCorpus.from_counts(np.array([[2, 1, 0], [0, 3, 1]]))
            >>> reference.cooccurrence([[0, 1]]).joint[0]
            array([[1., 1.],
                   [1., 2.]])
        """
        rows = csr_array(counts, copy=True)
        rows.eliminate_zeros()
        corpus = cls(rows.indices, rows.indptr, rows.shape[1])
        corpus.has_order = False
        return corpus

    def cooccurrence(self, top_words: ArrayLike, window: int | None = None) -> Cooccurrence:
        """Count windows of ``window`` tokens, or documents where it is None.

        The windows are those of gensim's ``CoherenceModel``: one for each place of the document where ``window`` tokens
        fit, and one for a document that is shorter. As there, a word that occurs several times in a window is lost as
        soon as the first of them leaves it, until it enters again. Counts are those behind published figures, and lower
        than those of true boolean windows (on 20 Newsgroups NPMI falls by .004 and C_V by .01 to .02).

        Args:
            top_words: (K, n) word ids, no word twice in a topic.
            window: Tokens.

        Raises:
            UserError: If words are out of range or repeated, or there are no windows to be counted.
        """
        if window is not None and not self.has_order:
            raise UserError("a corpus of word counts has no windows: give ReferenceCorpus the tokens in their order")
        if window is not None and window < 1:
            raise UserError(f"window must be at least 1, got {window}: give another window, 10 is usual")
        words = checked(top_words, self.vocab_size)
        if window is None:
            return Cooccurrence(len(self.offsets) - 1, self.count_documents(words))
        distinct, place = np.unique(words, return_inverse=True)
        # Topics that have nearly all words in common, as after a collapse, are counted as one topic with all words.
        collapsed = distinct.size**2 <= words.size * words.shape[1]
        joint, total = self.count(distinct[None] if collapsed else words, window)
        if collapsed:
            place = place.reshape(words.shape)
            joint = joint[0][place[:, :, None], place[:, None, :]]
        return Cooccurrence(total, joint)

    def count_documents(self, words: np.ndarray) -> np.ndarray:
        """Return how many documents have both words of a topic, (K, n, n), for ``words`` (K, n)."""
        num_documents, n = len(self.offsets) - 1, words.shape[1]
        exact = np.float32 if num_documents < 2**24 else np.float64
        joint = []
        for some in np.array_split(words, -(-len(words) * n * num_documents // DENSE)):
            shown = self.presence[:, some.ravel()].astype(exact).toarray(order="F").T.reshape(len(some), n, -1)
            joint.append(shown @ shown.transpose(0, 2, 1))
        return np.concatenate(joint).astype(np.float64)

    @cached_property
    def presence(self) -> csc_array:
        """Whether each document (N,) has each word (V,); made once."""
        known = self.ids >= 0
        offsets = np.concatenate([[0], np.cumsum(known)])[self.offsets]
        ids = self.ids[known]
        shape = (len(offsets) - 1, self.vocab_size)
        rows = csr_array((np.ones(len(ids), np.int8), ids, offsets), shape).tocsc()
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
    """Return ``top_words`` as (K, n) int64 after looking at them."""
    words = np.asarray(top_words)
    if words.ndim != 2 or words.shape[0] < 1 or words.shape[1] < 2 or words.dtype.kind not in "iu":
        raise UserError(f"top words must be (K, n >= 2) integers, got {words.shape} {words.dtype}: give word ids")
    if words.min() < 0 or words.max() >= vocab_size:
        raise UserError(f"top words must be in [0, {vocab_size}), got {words.min()} to {words.max()}: give other ids")
    twice = (np.diff(np.sort(words, 1), axis=1) == 0).any(1)
    if twice.any():
        raise UserError(f"topic {twice.argmax()} has a word twice: give each of its top words once")
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
    """Find the windows in which words are present; a window bears the number of its first token.

    Args:
        words: (R,) in the order of the text.
        places: (R,) the tokens that they are.
        offsets: (N + 1,) of the documents.
        window: Tokens.

    Returns:
        Word, first and last window of intervals that are disjoint for each word.
    """
    order = np.argsort(words, kind="stable")
    words, places = words[order].astype(np.int64), places[order]
    document = np.searchsorted(offsets, places, "right") - 1
    begin = offsets[document]
    last_window = begin + np.maximum(offsets[document + 1] - begin - window, 0)
    enters = np.maximum(places - window + 1, begin)
    # It stays until the oldest occurrence that this first window holds is left behind.
    stride = offsets[-1] + 1
    oldest = np.searchsorted(words * stride + places, words * stride + enters)
    kept = np.diff(oldest, prepend=-1) > 0  # those that enter while the word is present add nothing
    leaves = np.minimum(places[oldest], last_window)
    return words[kept], enters[kept], leaves[kept]


def overlaps(
    top_words: np.ndarray, words: np.ndarray, enters: np.ndarray, leaves: np.ndarray, num_tokens: int
) -> np.ndarray:
    """Return how many windows (K, n, n) have both words of a topic, from the ``intervals`` of the words."""
    num_topics, n = top_words.shape
    # A slot is a word of a topic; intervals are repeated for each slot that their word has.
    by_word = np.argsort(top_words, axis=None, kind="stable")
    sorted_words = top_words.ravel()[by_word]
    first_slot = np.searchsorted(sorted_words, words)
    of, nth = repeated(np.searchsorted(sorted_words, words, "right") - first_slot)
    slot, enters, leaves = by_word[first_slot[of] + nth], enters[of], leaves[of]
    # Those of a topic that overlap an interval and enter after it follow it in the order of topic and entry.
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
    """Return each index i ``times[i]`` times, and which of its repetitions it is.

    Example:
        >>> repeated(np.array([2, 0, 3]))
        (array([0, 0, 2, 2, 2]), array([0, 1, 0, 1, 2]))
    """
    index = np.repeat(np.arange(len(times)), times)
    return index, np.arange(len(index)) - np.repeat(np.cumsum(times) - times, times)
