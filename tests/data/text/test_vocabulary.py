"""Words of texts and the choice of the vocabulary, against scikit-learn's CountVectorizer."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer

from tests.helpers.refusal import refused
from vqlab.data.text.vocabulary import WORD, choose_words, count_words, pick, read_words, stop_list, tokenize

TEXTS = st.lists(st.text("abcAB é_1'.-\n", max_size=40), min_size=1, max_size=12)


@pytest.mark.filterwarnings("ignore:Your stop_words may be inconsistent")
@settings(max_examples=100, deadline=None)
@given(
    TEXTS,
    st.integers(1, 4) | st.floats(0, 1),
    st.integers(1, 9) | st.floats(0, 1),
    st.sampled_from([r"\b\w\w+\b", r"[^\W\d_]+", r"(\w)\b"]),
)
def test_vocabulary_and_counts_are_those_of_scikit_learn(texts, min_df, max_df, pattern):
    theirs = CountVectorizer(token_pattern=pattern, min_df=min_df, max_df=max_df, stop_words=["aa", "abc", "b", "bb"])
    words, tokens = tokenize(texts, pattern)
    counts = count_words(tokens, len(words))
    try:
        expected = theirs.fit_transform(texts)
    except ValueError:  # no word is left
        with refused("--data."):
            choose_words(words, counts, min_df, max_df, None, frozenset(["aa", "abc", "b", "bb"]))
        return
    vocabulary = choose_words(words, counts, min_df, max_df, None, frozenset(["aa", "abc", "b", "bb"]))
    assert vocabulary == theirs.get_feature_names_out().tolist()
    columns = np.array([vocabulary.index(word) if word in vocabulary else -1 for word in words], np.int32)
    picked = pick(tokens, np.arange(len(texts)), columns)
    assert np.array_equal(count_words(picked, len(vocabulary)).toarray(), expected.toarray())


@given(TEXTS)
@settings(max_examples=50, deadline=None)
def test_words_keep_their_order(texts):
    analyze = CountVectorizer(token_pattern=WORD).build_analyzer()
    words, (ids, offsets) = tokenize(texts)
    documents = [[words[i] for i in ids[a:b]] for a, b in pairwise(offsets)]
    assert documents == [analyze(text) for text in texts]
    assert (ids.dtype, offsets.dtype) == (np.int32, np.int64)


@given(TEXTS, st.data())
@settings(max_examples=50, deadline=None)
def test_picked_documents_against_a_loop(texts, data):
    words, tokens = tokenize(texts, r"\w")
    ids, offsets = tokens
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, unique=True).map(sorted))
    columns = np.array(data.draw(st.permutations(range(-2, len(words)))), np.int32).clip(-1)[: len(words)]
    picked = pick(tokens, np.array(rows), columns)
    expected = [[columns[i] for i in ids[offsets[r] : offsets[r + 1]] if columns[i] >= 0] for r in rows]
    assert [picked.ids[a:b].tolist() for a, b in zip(picked.offsets[:-1], picked.offsets[1:], strict=True)] == expected


def test_a_word_has_three_letters():
    texts = ["It's 2nd; an mp3, x_train and naïve Größe.", "Don't --isn't! café2 ETC"]
    assert tokenize(texts)[0] == ["and", "naïve", "größe", "don", "isn", "etc"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("आधुनिक मानक हिन्दी पानी", ["आधुनिक", "मानक", "हिन्दी", "पानी"]),
        ("ภาษาไทย, ที่นี่", ["ภาษาไทย", "ที่นี่"]),
        ("বাংলা ভাষা", ["বাংলা", "ভাষা"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("مُحَمَّد كَتَبَ", ["مُحَمَّد", "كَتَبَ"]),
        ("می‌خواهم", ["می‌خواهم"]),
        ("cafe\u0301 café Việt Vie\u0323\u0302t", ["café", "việt"]),
        ("İstanbul I\u0307stanbul", ["istanbul"]),
        ("股票 市场 的 上涨, 한국 말", ["股票", "市场", "上涨", "한국"]),
        ("5किलो किताब1 \u2764\ufe0flove x1é", ["love"]),
    ],
)
def test_words_beyond_ascii(text, words):
    assert tokenize([text])[0] == words
    assert all(tokenize([word])[0] == [word] for word in words)


def test_a_given_vocabulary_is_composed_as_texts_are(tmp_path):
    (tmp_path / "words.txt").write_text("cafe\u0301\n")
    assert read_words(str(tmp_path / "words.txt"), "vocabulary_path") == tokenize(["cafe\u0301"])[0]
    (tmp_path / "words.txt").write_text("Cafe\u0301\n")
    assert stop_list(str(tmp_path / "words.txt")) == {"café"}


@pytest.mark.parametrize("text", ["今日は天気がいいから公園へ行きましょう。", "ภาษาไทยเป็นภาษาที่มีระดับเสียงของคำแน่นอน"])
def test_texts_without_spaces_are_named(text, caplog):
    tokenize([text, "cat dog"])
    assert "look like whole sentences" in caplog.text
    caplog.clear()
    tokenize(["今日 は 天気 が いい から 公園 へ 行き ましょう", "股票 市场 上涨"])
    assert not caplog.text


def test_the_most_frequent_words_are_kept_and_of_equals_the_first():
    words, tokens = tokenize(["bb aa cc dd", "bb aa dd", "bb cc ee ee ee"], r"\w+")
    counts = count_words(tokens, len(words))
    assert [choose_words(words, counts, max_vocab=n) for n in (1, 2, 3)] == [["bb"], ["aa", "bb"], ["aa", "bb", "cc"]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_df": 4}, ["min_df=4", "3 training documents", "in 3", "--data.min_df=3"]),
        ({"min_df": 2, "max_df": 0.5}, ["max_df=0.5", "the rarest is in 2", "--data.max_df=2"]),
        ({"stop_words": frozenset(["cat", "dog", "hen"])}, ["stop words", "--data.stop_words=null"]),
    ],
)
def test_the_bound_that_takes_the_last_word_is_named(options, words):
    found, tokens = tokenize(["cat dog", "cat dog", "hen cat"])
    with refused(*words):
        choose_words(found, count_words(tokens, len(found)), **options)


def test_texts_without_words():
    found, tokens = tokenize(["1 2 3", "", "ab"])
    with refused("none of the 3 training documents", "--data.token_pattern"):
        choose_words(found, count_words(tokens, len(found)))


def test_stop_words(tmp_path):
    assert stop_list("english") > ENGLISH_STOP_WORDS
    assert {"the", "don", "isn"} <= stop_list("english")
    assert stop_list(None) == frozenset()
    (tmp_path / "stop.txt").write_text("Und\noder\n")
    assert stop_list(str(tmp_path / "stop.txt")) == {"und", "oder"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["is empty"]),
        (b" \n\n", ["is empty"]),
        (b"cat\n\ndog", ["empty line 2"]),
        (b"cat\ndog\r\ncat\r\n", ["'cat'", "lines 1 and 3"]),
        (b"caf\xe9\n", ["not UTF-8"]),
        (None, ["is not a file"]),
    ],
)
def test_files_of_words_that_are_refused(tmp_path, content, words):
    file = tmp_path / "words.txt"
    if content is not None:
        file.write_bytes(content)
    with refused("words.txt", "--data.vocabulary_path", *words):
        read_words(str(file), "vocabulary_path")


def test_a_file_of_words_keeps_its_order(tmp_path):
    (tmp_path / "words.txt").write_bytes("\ufeffzebra\r\nant\r\n".encode())
    assert read_words(str(tmp_path / "words.txt"), "vocabulary_path") == ["zebra", "ant"]
