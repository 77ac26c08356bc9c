"""Bags of words: tf-idf, empty documents, batches and splits."""

import inspect
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfTransformer

from tests.helpers.planted import Planted
from tests.helpers.refusal import refused
from vqlab.data import TextFile
from vqlab.data.text.base import BagsOfWords, Corpus, TextDataModule, split_documents, weigh


class Drawn(TextDataModule):
    """Random documents; ``empty`` of the training documents have no words."""

    def __init__(self, train=40, val=9, words=12, empty=0, rng=0, **common):
        super().__init__(**{"batch_size": 4, **common})
        rng = np.random.default_rng(rng)
        self.drawn = {split: rng.integers(0, 3, (count, words)) for split, count in (("train", train), ("val", val))}
        for split, counts in self.drawn.items():
            counts[:, 0] += 1
            counts[rng.choice(train, empty if split == "train" else 0, replace=False)] = 0

    def load_corpus(self):
        splits = {split: BagsOfWords(csr_matrix(x), np.arange(len(x))) for split, x in self.drawn.items()}
        words, count = self.drawn["train"].shape[1], max(map(len, self.drawn.values()))
        return Corpus(splits, [f"w{n}" for n in range(words)], [str(n) for n in range(count)])


def whole(loader):
    batches = list(loader)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


@settings(max_examples=25, deadline=None)
@given(rng=st.integers(0, 2**32 - 1), words=st.integers(1, 30), empty=st.integers(0, 39))
def test_tf_idf_equals_that_of_scikit_learn(rng, words, empty):
    data = Drawn(words=words, empty=empty, rng=rng, batch_size=1)
    reference = TfidfTransformer(norm="l1").fit(data.train_counts())
    in_how_many = np.maximum((data.train_counts().toarray() > 0).sum(0), 1)
    reference.idf_ = np.log((1 + data.train_size) / in_how_many)
    train, val = whole(data.train_dataloader()), whole(data.val_dataloader())
    order = train["index"].argsort()
    for bow, counts in ((train["bow"][order], data.train_counts()), (val["bow"], data.load_split("val").counts)):
        assert bow.dtype == torch.float32
        np.testing.assert_allclose(bow.numpy(), reference.transform(counts).toarray(), rtol=1e-5)
        torch.testing.assert_close(bow.sum(1), torch.ones(len(bow)))


def test_squared_idf_is_its_formula():
    data = Drawn(batch_size=1, empty=3, weighting="squared_idf")
    train = whole(data.train_dataloader())
    counts = data.train_counts().toarray()
    weights = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) * data.idf.numpy() ** 2
    lengths = np.linalg.norm(weights, axis=1, keepdims=True)
    np.testing.assert_allclose(data.train_documents().toarray(), weights / lengths, rtol=1e-6)
    expected = weights / weights.sum(1, keepdims=True)
    np.testing.assert_allclose(train["bow"][train["index"].argsort()].numpy(), expected, rtol=1e-5)


def test_neighbours_are_the_nearest_in_the_space_of_the_singular_vectors():
    data = Planted(num_topics=31, num_documents=300, weighting="squared_idf", neighbours=5, batch_size=20)
    near = data._train_val[0].table
    documents = data.train_documents().toarray()
    left, values, _ = np.linalg.svd(documents, full_matrices=False)
    points = (left * values)[:, :30]
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    cosines = points @ points.T
    np.fill_diagonal(cosines, -1)
    nearest = np.argsort(-cosines, 1)[:, :5]
    common = [len({*ours} & {*exact}) for ours, exact in zip(near.tolist(), nearest.tolist(), strict=True)]
    assert np.mean(common) > 4.5  # the randomized SVD is not exact
    own = data.dominant[: len(near)]
    assert (own[near] == own[:, None]).mean() > 0.5 > 5 * (own[:, None] == own).mean()


def test_neighbours_of_a_batch_are_from_the_table_and_drawn_again_in_the_next_epoch():
    data = Planted(num_documents=60, neighbours=3, batch_size=20)
    split = data._train_val[0]
    rows = weigh({"bow": torch.from_numpy(data.train_counts().toarray())}, "tfidf", data.idf)["bow"]
    drawn = []
    loader = data.train_dataloader()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        batches = whole(loader)
        assert torch.equal(batches["bow"], rows[batches["index"]])
        which = (batches["neighbour"][:, None] == rows[split.table[batches["index"]]]).all(2)
        assert (which.sum(1) == 1).all()
        drawn.append(which.int().argmax(1)[batches["index"].argsort()])
    assert not torch.equal(*drawn)
    assert "neighbour" not in next(iter(data.val_dataloader()))
    again = split.__getitems__([4, 7, 9])
    assert torch.equal(again["neighbour"], split.__getitems__([4, 7, 9])["neighbour"])


def test_few_documents_have_all_others_as_neighbours():
    assert Drawn(train=3, neighbours=20, batch_size=1)._train_val[0].table.sort(1).values.tolist() == [
        [1, 2],
        [0, 2],
        [0, 1],
    ]
    with refused("neighbours=20 needs two training documents: set neighbours=0"):
        Drawn(train=1, neighbours=20, batch_size=1).setup("fit")


def test_signature_shows_the_arguments_of_the_base_classes():
    names = {*inspect.signature(TextFile).parameters}
    assert names >= {"path", "min_df", "batch_size"}
    assert "common" not in names


def test_empty_documents_are_left_out_of_counts_and_labels(caplog):
    data = Drawn(train=30, empty=7)
    full = np.flatnonzero(data.drawn["train"].any(1))
    assert np.array_equal(data.train_counts().toarray(), data.drawn["train"][full])
    assert data.load_split("train").labels.tolist() == full.tolist()
    assert data.train_size == 23
    assert "7 of train, 0 of val" in caplog.text


def test_batches_are_the_same_from_a_worker_and_after_resuming():
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
        (lambda: Drawn(weighting="bm25"), "weighting must be one of tfidf, squared_idf, counts, got 'bm25'"),
        (lambda: Drawn(batch_size=64).setup("fit"), "40 training documents"),
        (lambda: Drawn(train=5, empty=5).train_size, "none of the 5 documents of train contains one of the 12 words"),
        (lambda: Drawn().test_dataloader(), "Drawn has no test documents"),
    ],
)
def test_invalid_arguments_and_data_are_refused(refuse, line):
    with refused(line):
        refuse()
