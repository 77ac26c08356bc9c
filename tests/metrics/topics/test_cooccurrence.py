"""Counts of windows and documents against a loop over every window."""

import itertools
import secrets

import numpy as np
import pytest
from scipy import sparse

from vqlab.metrics import ReferenceCorpus
from vqlab.metrics.topics import cooccurrence


def draw(rng, vocab_size=12, num_documents=40, longest=30):
    """Documents with many repetitions, some of them empty, and with unknown words (-1)."""
    lengths = rng.integers(0, longest, num_documents) * (rng.random(num_documents) > 0.15)
    weights = rng.dirichlet(np.full(vocab_size, 0.7))
    ids = rng.choice(vocab_size, lengths.sum(), p=weights).astype(np.int32)
    ids[rng.random(len(ids)) < 0.1] = -1
    return ids, np.concatenate([[0], lengths.cumsum()])


def topics_of(rng, num_topics=6, n=4, vocab_size=12):
    return np.stack([rng.choice(vocab_size, n, replace=False) for _ in range(num_topics)])


def windows_by_hand(documents, window):
    """Yield the words of each window as gensim does: a word that leaves is removed even if it occurs again."""
    for document in documents:
        present = set(document[:window])
        yield set(present)
        for left, entered in zip(document, document[window:], strict=False):
            present.discard(left)
            present.add(entered)
            yield set(present)


def counts_by_hand(ids, offsets, topics, window):
    documents = [ids[first:last].tolist() for first, last in itertools.pairwise(offsets)]
    present = [set(document) for document in documents] if window is None else list(windows_by_hand(documents, window))
    joint = [[[sum({i, j} <= words for words in present) for j in topic] for i in topic] for topic in topics.tolist()]
    return len(present), np.array(joint)


@pytest.mark.parametrize("window", [None, 1, 2, 3, 7, 29, 1000])
def test_counts_equal_a_loop_over_windows(window):
    seed = secrets.randbelow(2**31)
    rng = np.random.default_rng(seed)
    ids, offsets = draw(rng)
    topics = topics_of(rng)
    counts = ReferenceCorpus(ids, offsets, 12).cooccurrence(topics, window)
    total, joint = counts_by_hand(ids, offsets, topics, window)
    assert counts.total == total, seed
    np.testing.assert_array_equal(counts.joint, joint, err_msg=str(seed))


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("size", [1, 10, 64])
def test_counts_do_not_depend_on_chunks(window, size, monkeypatch):
    rng = np.random.default_rng(0)
    corpus, topics = ReferenceCorpus(*draw(rng), 12), topics_of(rng)
    whole = corpus.cooccurrence(topics, window)
    monkeypatch.setattr(cooccurrence, "CHUNK", size)
    parts = corpus.cooccurrence(topics, window)
    assert parts.total == whole.total
    np.testing.assert_array_equal(parts.joint, whole.joint)


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("distinct", [4, 5, 12])
def test_counts_of_collapsed_topics_equal_those_of_single_topics(window, distinct):
    rng = np.random.default_rng(1)
    corpus = ReferenceCorpus(*draw(rng), 12)
    topics = topics_of(rng, num_topics=9, vocab_size=distinct)
    alone = [corpus.cooccurrence([topic], window).joint[0] for topic in topics]
    np.testing.assert_array_equal(corpus.cooccurrence(topics, window).joint, np.stack(alone))


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix, sparse.coo_array, sparse.csc_array])
def test_word_counts_have_the_document_counts_of_tokens(make):
    rng = np.random.default_rng(2)
    ids, offsets = draw(rng)
    topics = topics_of(rng)
    matrix = np.stack([np.bincount(ids[a:b][ids[a:b] >= 0], minlength=12) for a, b in itertools.pairwise(offsets)])
    bags, tokens = ReferenceCorpus.from_counts(make(matrix)), ReferenceCorpus(ids, offsets, 12)
    assert bags.cooccurrence(topics).total == tokens.cooccurrence(topics).total
    np.testing.assert_array_equal(bags.cooccurrence(topics).joint, tokens.cooccurrence(topics).joint)


def test_stored_zeros_do_not_count():
    matrix = sparse.csr_array((np.array([0.0, 2.0]), np.array([0, 1]), np.array([0, 2])), shape=(1, 2))
    assert ReferenceCorpus.from_counts(matrix).cooccurrence([[0, 1]]).joint.tolist() == [[[0, 0], [0, 1]]]
    assert matrix.nnz == 2  # the input is unchanged
