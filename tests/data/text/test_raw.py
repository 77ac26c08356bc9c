"""Raw text: tokenization, the vocabulary of the training documents, labels and splits."""

import sys
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer

from tests.helpers.refusal import refused
from vqlab.data.text.raw import WORD, Document, RawTextDataModule, read_words, stop_list, word_finder, word_separator

WORDS = np.array([a + b + "x" for a in "abcdefgh" for b in "ijklmno"])
TEXTS = st.lists(st.text("abcAB é_1'.-\n", max_size=40), min_size=1, max_size=12)


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
    counts = data.load_split(split).counts
    return [" ".join(np.repeat(data.vocabulary, row.astype(int))) for row in counts.toarray()]


@pytest.mark.filterwarnings("ignore:Your stop_words may be inconsistent")
@settings(max_examples=100, deadline=None)
@given(
    TEXTS,
    st.integers(1, 4) | st.floats(0, 1),
    st.integers(1, 9) | st.floats(0, 1),
    st.sampled_from([r"\b\w\w+\b", r"[^\W\d_]+", r"(\w)\b", WORD]),
)
def test_vocabulary_counts_and_order_equal_those_of_scikit_learn(texts, min_df, max_df, pattern):
    stop_words = ["aa", "abc", "b", "bb"]
    theirs = CountVectorizer(token_pattern=pattern, min_df=min_df, max_df=max_df, stop_words=stop_words)
    documents = [Document(text, split=split) for split in ("train", "val") for text in texts]
    data = Listed(documents, token_pattern=pattern, min_df=min_df, max_df=max_df, max_vocab=None)
    data.stop_words = frozenset(stop_words)
    try:
        expected = theirs.fit_transform(texts).toarray()
    except ValueError:  # no word is left
        with refused("no word of the"):
            data.load_corpus()
        return
    corpus = data.load_corpus()
    assert corpus.vocabulary == theirs.get_feature_names_out().tolist()
    assert all(np.array_equal(split.counts.toarray(), expected) for split in corpus.splits.values())
    ids, offsets = corpus.reference.ids, corpus.reference.offsets
    in_order = [[word for word in theirs.build_analyzer()(text) if word in corpus.vocabulary] for text in texts]
    assert [[corpus.vocabulary[i] for i in ids[a:b]] for a, b in pairwise(offsets)] == [*filter(None, in_order)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's 2nd; an mp3, x_train and naïve Größe.", ["and", "naïve", "größe"]),
        ("Don't --isn't! café2 ETC", ["don", "isn", "etc"]),
        ("आधुनिक मानक हिन्दी पानी", ["आधुनिक", "मानक", "हिन्दी", "पानी"]),
        ("ภาษาไทย, ที่นี่", ["ภาษาไทย", "ที่นี่"]),
        ("مُحَمَّد كَتَبَ", ["مُحَمَّد", "كَتَبَ"]),
        ("می‌خواهم", ["می‌خواهم"]),
        ("cafe\u0301 café Việt Vie\u0323\u0302t", ["café", "café", "việt", "việt"]),
        ("İstanbul I\u0307stanbul", ["istanbul", "istanbul"]),
        ("股票 市场 的 上涨, 한국 말", ["股票", "市场", "上涨", "한국"]),
        ("5किलो किताब1 \u2764\ufe0flove x1é", ["love"]),
    ],
)
def test_words_have_three_letters_of_any_alphabet(text, words):
    assert word_finder(WORD)(text) == words


CHINESE = ["股票市场昨天大幅上涨，投资者非常高兴。", "昨天的足球比赛非常精彩，观众非常高兴。"]
JAPANESE = ["昨日、東京の株式市場は大きく上昇し、投資家は喜んだ。", "昨日のサッカーの試合はとても面白かった。"]


@pytest.mark.parametrize(
    ("tokenizer", "texts", "words"),
    [
        ("chinese", CHINESE, {"股票市场", "昨天", "投资者", "足球比赛", "精彩"}),
        ("japanese", JAPANESE, {"昨日", "東京", "株式", "市場", "サッカー", "試合"}),
    ],
)
def test_texts_without_spaces_are_cut_into_words(tokenizer, texts, words):
    documents = [Document(text) for text in texts * 5]
    assert words <= {*Listed(documents, tokenizer=tokenizer).vocabulary}
    with refused("the texts have no spaces between words: set tokenizer=chinese or tokenizer=japanese"):
        Listed(documents).load_corpus()
    separated = [Document(word_separator(tokenizer)(text)) for text in texts * 5]
    assert words <= {*Listed(separated).vocabulary}


def test_a_missing_tokenizer_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rjieba", None)
    with refused("tokenizer=chinese needs a package: pip install 'vqlab[chinese]'"):
        Listed([Document("股票市场")] * 10, tokenizer="chinese").load_corpus()


def test_max_vocab_keeps_words_in_most_documents_in_alphabetical_order():
    documents = [Document(text, split="train") for text in ("bb aa cc dd", "bb aa dd", "bb cc ee ee ee")]
    kept = [Listed(documents, token_pattern=r"\w+", max_vocab=n, val_fraction=0.4) for n in (1, 2, 3)]
    for data in kept:
        data.documents = [*documents, Document("bb", split="val")]
    assert [data.vocabulary for data in kept] == [["bb"], ["aa", "bb"], ["aa", "bb", "cc"]]


def test_word_files_are_composed_to_nfc_and_keep_their_order(tmp_path):
    (tmp_path / "words.txt").write_bytes("\ufeffzebra\r\ncafe\u0301\n".encode())
    assert read_words("words.txt", "vocabulary_path") == ["zebra", "café"]
    (tmp_path / "words.txt").write_text("Und\nCafe\u0301\n")
    assert stop_list("words.txt") == {"und", "café"}
    assert stop_list("english") > ENGLISH_STOP_WORDS | {"the", "don", "isn"}
    assert stop_list(None) == frozenset()


def test_vocabulary_does_not_depend_on_validation_and_test_documents():
    train = drawn(30, "train")
    for others in (drawn(9, seed=1), [Document(f"{train[0].text} unheard") for _ in range(9)]):
        held_out = [Document(text, None, split) for split in ("val", "test") for text, *_ in others]
        data = Listed(held_out[:9] + train + held_out[9:], min_df=3, max_df=0.3, max_vocab=20)
        alone = Listed([*train, *[Document(train[0].text, None, "val")]], min_df=3, max_df=0.3, max_vocab=20)
        assert data.vocabulary == alone.vocabulary
        assert np.array_equal(data.train_counts().toarray(), alone.train_counts().toarray())
        assert (data.idf == alone.idf).all()


def test_each_text_is_in_one_split_drawn_by_the_seed():
    documents = drawn(50)
    splits, same, other = (
        [texts_of(Listed(documents, seed=seed), split) for split in ("train", "val", "test")] for seed in (3, 3, 4)
    )
    assert [len(split) for split in splits] == [40, 5, 5]
    known = set(Listed(documents, seed=3).vocabulary)
    expected = [" ".join(sorted(w for w in text.split() if w in known)) for text, *_ in documents]
    assert sorted(chain(*splits)) == sorted(expected)
    assert splits == same
    assert splits != other


def test_splits_of_the_source_are_kept():
    documents = drawn(20, "train") + drawn(5, "val", 1) + drawn(7, "test", 2)
    for source, options, sizes in (
        (documents, {}, {"train": 20, "val": 5, "test": 7}),
        (documents[:20] + documents[25:], {"val_fraction": 0.2}, {"train": 16, "val": 4, "test": 7}),
        (documents[:25], {}, {"train": 20, "val": 5}),
    ):
        splits = Listed(source, **options).load_corpus().splits
        assert {split: len(bags) for split, bags in splits.items()} == sizes
    for source, got in ((documents[20:], "5 of val, 7 of test of 12"), (drawn(9) + documents[25:], "7 of test of 16")):
        with refused(f"each document must have a split, and at least one must be in train, got {got} documents"):
            Listed(source).load_corpus()


def test_labels_are_numbered_in_alphabetical_order():
    documents = [document for label in ("b", "a", None) for document in drawn(10, "train", label=label)]
    data = Listed([*documents, *drawn(3, "test", label="c")], val_fraction=0.1)
    assert data.class_names == ["a", "b", "c"]
    labels = np.concatenate([data.load_split(split).labels for split in ("train", "val")])
    assert np.bincount(labels + 1).tolist() == [10, 10, 10]
    assert data.load_split("test").labels.tolist() == [2, 2, 2]
    assert Listed(drawn(10, label="only")).num_classes == 0


def test_given_vocabulary_is_kept_unchanged(tmp_path, caplog):
    (tmp_path / "words.txt").write_text("hox\nzebra\naix\nHat\nc3po\n")
    documents = [*drawn(40), Document("zebra")]
    data = Listed(documents, vocabulary_path="words.txt", val_fraction=0.3, test_fraction=0, min_df=30, max_vocab=1)
    assert data.vocabulary == ["hox", "zebra", "aix", "Hat", "c3po"]
    assert "never matches 2 words of vocabulary_path: Hat, c3po" in caplog.text
    left_out = sum(not {"hox", "aix", "zebra"} & set(text.split()) for text, *_ in documents)
    assert sum(len(split) for split in data._corpus.splits.values()) == 41 - left_out
    (tmp_path / "words.txt").write_text("nowhere\n")
    with refused("none of the 33 documents of train contains one of the 1 words of the vocabulary"):
        Listed(documents, vocabulary_path="words.txt").load_split("train")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"documents": [Document("12")] * 9}, "no word of the 7 training documents is left"),
        ({"documents": [Document("cat dog")] * 9, "min_df": 8}, "the most frequent other than stop words is in 7"),
        ({}, "0 document(s) are too few"),
        ({"max_df": 1.5}, "max_df must be an integer of at least 1 or in [0, 1], got 1.5"),
        ({"max_vocab": 0}, "max_vocab must be at least 1 or None, got 0"),
        ({"token_pattern": "[a-z"}, "token_pattern is not a regular expression"),
        ({"token_pattern": "(a)(b)"}, "token_pattern must have at most one group"),
        ({"stop_words": "englsh"}, "englsh is not a UTF-8 file with a different word in each line ([Errno 2]"),
        ({"vocabulary_path": b"caf\xe9\n"}, "words.txt is not a UTF-8 file"),
        ({"vocabulary_path": b"cat\ndog\r\ncat\r\n"}, "a different word in each line ('cat' in line 3)"),
        ({"vocabulary_path": b"cat\n\ndog"}, "different word in each line ('' in line 2): set vocabulary_path=FILE"),
    ],
)
def test_invalid_arguments_and_texts_are_refused(tmp_path, options, line):
    if words := options.get("vocabulary_path"):
        (tmp_path / "words.txt").write_bytes(words)
        options = {**options, "vocabulary_path": "words.txt"}
    with refused(line):
        Listed(**{"documents": [], **options}).load_corpus()
