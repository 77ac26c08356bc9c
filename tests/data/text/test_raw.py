"""Raw text: a vocabulary from the training documents alone, labels and splits."""

from itertools import chain, pairwise

import numpy as np
import pytest

from tests.helpers.refusal import refused
from vqlab.data.text.raw import Document, RawTextDataModule

WORDS = np.array([a + b + "x" for a in "abcdefgh" for b in "ijklmno"])


class Listed(RawTextDataModule):
    """Given documents."""

    def __init__(self, documents, **common):
        super().__init__(**{"batch_size": 4, "min_df": 1, "max_df": 1.0, **common})
        self.documents = documents

    def read(self):
        yield from self.documents


def drawn(count, split=None, seed=0, label=None):
    rng = np.random.default_rng(seed)
    return [Document(" ".join(rng.choice(WORDS, rng.integers(1, 20))), label, split) for _ in range(count)]


def texts_of(data, split="train"):
    """The documents of a split, each as its sorted words."""
    counts = data._corpus.splits[split].counts
    return [" ".join(np.repeat(data.vocabulary, row.astype(int))) for row in counts.toarray()]


def same(one, other):
    return one.vocabulary == other.vocabulary and all(
        np.array_equal(a.toarray(), b.toarray())
        for a, b in zip(*([d.train_counts(), d.val_counts(), d.test_counts()] for d in (one, other)), strict=True)
    )


def test_the_vocabulary_does_not_depend_on_validation_and_test_documents():
    train = drawn(30, "train")
    for others in (drawn(9, seed=1), [Document(f"{train[0].text} unheard") for _ in range(9)]):
        held_out = [Document(text, None, split) for split in ("val", "test") for text, *_ in others]
        data = Listed(held_out[:9] + train + held_out[9:], min_df=3, max_df=0.3, max_vocab=20)
        alone = Listed([*train, *[Document(train[0].text, None, "val")]], min_df=3, max_df=0.3, max_vocab=20)
        assert data.vocabulary == alone.vocabulary
        assert np.array_equal(data.train_counts().toarray(), alone.train_counts().toarray())
        assert (data.idf == alone.idf).all()
        assert not any(word == "unheard" for word in data.vocabulary)


def test_each_text_is_in_one_split_and_the_seed_decides():
    documents = drawn(50)
    data = Listed(documents, seed=3)
    splits = [texts_of(data, split) for split in ("train", "val", "test")]
    assert [len(split) for split in splits] == [40, 5, 5]
    known = set(data.vocabulary)
    expected = [" ".join(sorted(w for w in text.split() if w in known)) for text, *_ in documents]
    assert sorted(chain(*splits)) == sorted(expected)
    assert same(data, Listed(documents, seed=3))
    assert not same(data, Listed(documents, seed=4))


def test_tokens_are_the_words_in_order():
    documents = drawn(20)
    data = Listed(documents, min_df=2, test_fraction=0)
    ids, offsets = data.train_tokens()
    found = [[data.vocabulary[i] for i in ids[a:b]] for a, b in pairwise(offsets)]
    expected = [[word for word in text.split() if word in data.vocabulary] for text, *_ in documents]
    assert len(found) == data.train_size == 18
    assert all(document in expected for document in found)


def test_splits_of_the_source_are_kept():
    documents = drawn(20, "train") + drawn(5, "val", 1) + drawn(7, "test", 2)
    assert [len(split) for split in Listed(documents)._corpus.splits.values()] == [20, 5, 7]
    data = Listed(documents[:20] + documents[25:], val_fraction=0.2)
    assert {split: len(texts_of(data, split)) for split in data._corpus.splits} == {"train": 16, "val": 4, "test": 7}
    assert list(Listed(documents[:25])._corpus.splits) == ["train", "val"]
    with refused("each document must have a split, and some that of train, got 5 of val, 7 of test of 12"):
        Listed(documents[20:]).vocab_size  # noqa: B018


def test_labels_are_numbered_in_the_order_of_their_names():
    documents = [document for label in ("b", "a", None) for document in drawn(10, "train", label=label)]
    data = Listed([*documents, *drawn(3, "test", label="c")], val_fraction=0.1)
    assert data.class_names == ["a", "b", "c"]
    labels = np.concatenate([data._corpus.splits[split].labels for split in ("train", "val")])
    assert np.bincount(labels + 1).tolist() == [10, 10, 10]
    assert data._corpus.splits["test"].labels.tolist() == [2, 2, 2]
    assert Listed(drawn(10, label="only")).num_classes == 0
    numbers = [document for label in ("10", "9", "1") for document in drawn(9, label=label)]
    assert Listed(numbers).class_names == ["1", "9", "10"]


@pytest.mark.parametrize(
    ("labels", "words"),
    [([f"{n / 8}" for n in range(4)] * 5, "decimals such as 0.125"), ([f"id {n}" for n in range(20)], "all different")],
)
def test_labels_that_are_no_classes_are_not_used(caplog, labels, words):
    data = Listed([Document("cat dog", label) for label in labels])
    assert data.num_classes == 0
    assert words in caplog.text


def test_a_given_vocabulary_is_kept_as_it_is(tmp_path, caplog):
    (tmp_path / "words.txt").write_text("hox\nzebra\naix\nHat\nc3po\n")
    documents = [*drawn(40), Document("zebra")]
    data = Listed(
        documents,
        vocabulary_path=str(tmp_path / "words.txt"),
        min_df=30,
        max_vocab=1,
        val_fraction=0.3,
        test_fraction=0,
    )
    assert data.vocabulary == ["hox", "zebra", "aix", "Hat", "c3po"]
    assert "2 of 5 words" in caplog.text
    assert "Hat, c3po" in caplog.text
    left_out = sum(not {"hox", "aix", "zebra"} & set(text.split()) for text, *_ in documents)
    assert sum(len(split) for split in data._corpus.splits.values()) == 41 - left_out
    (tmp_path / "words.txt").write_text("nowhere\n")
    with refused("none of the 33 documents of train holds one of the 1 words of the vocabulary"):
        Listed(documents, vocabulary_path=str(tmp_path / "words.txt")).vocab_size  # noqa: B018


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"documents": [Document("12")] * 9}, "no word of the 7 training documents is left"),
        ({}, "0 document(s) are too few"),
        ({"max_df": 1.5}, "max_df must be an integer of at least 1 or in [0, 1], got 1.5"),
        ({"max_df": float("nan")}, "max_df must be"),
        ({"max_vocab": 0}, "max_vocab must be at least 1 or None, got 0"),
        ({"val_fraction": 0}, "val_fraction must be in (0, 1), got 0"),
        ({"token_pattern": "[a-z"}, "token_pattern is no regular expression"),
        ({"token_pattern": "(a)(b)"}, "token_pattern has 2 groups"),
        ({"token_pattern": "[a-z]*"}, "token_pattern finds words without letters"),
        ({"stop_words": "englsh"}, "stop_words must be a UTF-8 file with one word a line, got englsh"),
        ({"vocabulary_path": "nowhere.txt"}, "vocabulary_path must be a UTF-8 file"),
    ],
)
def test_what_is_refused(options, line):
    with refused(line):
        Listed(**{"documents": [], **options}).vocab_size  # noqa: B018
