"""Bags of words: tf-idf, empty documents, batches and splits."""

import inspect
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfTransformer

from tests.helpers.refusal import refused
from vqlab.data.text.base import BagsOfWords, Corpus, TextDataModule, Tokens, split_documents
from vqlab.data.text.file import TextFile


class Drawn(TextDataModule):
    """Random documents with their words in order; ``empty`` of the training documents have none."""

    def __init__(self, train=40, val=9, words=12, empty=0, rng=0, **common):
        super().__init__(**{"batch_size": 4, **common})
        self.rng, self.sizes, self.words, self.empty = np.random.default_rng(rng), (train, val), words, empty
        self.drawn = {}

    def load_corpus(self):
        for split, count in zip(("train", "val"), self.sizes, strict=True):
            lengths = self.rng.integers(1, 9, count)
            if split == "train":
                lengths[self.rng.choice(count, self.empty, replace=False)] = 0
            ids = self.rng.integers(0, self.words, lengths.sum(), dtype=np.int32)
            self.drawn[split] = Tokens(ids, np.concatenate([[0], np.cumsum(lengths)]))
        splits = {
            split: BagsOfWords(tokens.counts(self.words), np.arange(len(tokens.offsets) - 1), tokens)
            for split, tokens in self.drawn.items()
        }
        return Corpus(splits, [f"w{n}" for n in range(self.words)], [str(n) for n in range(max(self.sizes))])


def whole(loader):
    batches = list(loader)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


@settings(max_examples=25, deadline=None)
@given(rng=st.integers(0, 2**32 - 1), words=st.integers(1, 30), empty=st.integers(0, 39))
def test_tf_idf_is_that_of_an_independent_computation(rng, words, empty):
    data = Drawn(words=words, empty=empty, rng=rng, batch_size=1)
    reference = TfidfTransformer(norm="l1").fit(data.train_counts())
    in_how_many = np.maximum((data.train_counts().toarray() > 0).sum(0), 1)
    reference.idf_ = np.log((1 + data.train_size) / in_how_many)
    train, val = whole(data.train_dataloader()), whole(data.val_dataloader())
    order = train["index"].argsort()
    for bow, counts in ((train["bow"][order], data.train_counts()), (val["bow"], data.val_counts())):
        assert bow.dtype == torch.float32
        np.testing.assert_allclose(bow.numpy(), reference.transform(counts).toarray(), rtol=1e-5)
        torch.testing.assert_close(bow.sum(1), torch.ones(len(bow)))


def test_the_signature_shows_the_arguments_of_the_bases():
    names = {*inspect.signature(TextFile).parameters}
    assert names >= {"path", "min_df", "batch_size"}
    assert "common" not in names


def test_empty_documents_are_left_out_of_counts_labels_and_tokens(caplog):
    data = Drawn(train=30, empty=7)
    counts, tokens = data.train_counts(), data.train_tokens()
    assert "7 of train, 0 of val" in caplog.text
    assert data.train_size == counts.shape[0] == len(tokens.offsets) - 1 == 23
    assert (tokens.counts(12) != counts).nnz == 0
    assert (np.diff(tokens.offsets) > 0).all()
    lengths = np.diff(data.drawn["train"].offsets)
    assert data._corpus.splits["train"].labels.tolist() == np.flatnonzero(lengths).tolist()


def test_batches_are_the_same_from_a_worker_and_after_a_stop():
    data, from_worker = Drawn(), Drawn(num_workers=1)
    first = whole(data.train_dataloader())
    assert sorted(first["index"].tolist()) == list(range(40))
    for name, values in whole(from_worker.train_dataloader()).items():
        assert torch.equal(values, first[name])
    stopped, resumed = data.train_dataloader(), data.train_dataloader()
    list(islice(stopped, 3))
    resumed.load_state_dict(stopped.state_dict())
    assert torch.equal(whole(resumed)["bow"], first["bow"][12:])


@settings(max_examples=50, deadline=None)
@given(count=st.integers(3, 200), val=st.floats(0.01, 0.3), test=st.floats(0, 0.3), seed=st.integers(0, 99))
def test_each_document_is_in_one_split(count, val, test, seed):
    rows = split_documents(count, val, test, seed)
    assert sorted(np.concatenate(list(rows.values()))) == list(range(count))
    assert all((np.diff(chosen) > 0).all() for chosen in rows.values())
    assert len(rows["val"]) == max(1, round(count * val))
    assert ("test" in rows) == (test > 0)
    assert all(np.array_equal(chosen, split_documents(count, val, test, seed)[name]) for name, chosen in rows.items())


@pytest.mark.parametrize(
    ("refuse", "line"),
    [
        (lambda: split_documents(9, 0.5, 0.5, 0), "leave no training documents"),
        (lambda: Drawn(weighting="bm25"), "weighting must be one of tfidf, counts, got 'bm25'"),
        (lambda: Drawn(batch_size=64).setup("fit"), "40 training documents"),
        (lambda: Drawn(train=5, empty=5).train_size, "none of the 5 documents of train holds one of the 12 words"),
        (lambda: Drawn().test_dataloader(), "Drawn has no test documents"),
    ],
)
def test_what_is_refused(refuse, line):
    with refused(line):
        refuse()
