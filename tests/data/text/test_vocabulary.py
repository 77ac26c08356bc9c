"""Words of texts and the choice of the vocabulary, against scikit-learn's CountVectorizer."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer

from tests.helpers.refusal import refused
from vqlab.data.text.vocabulary import choose_words, count_words, join, read_words, stop_list, tokenize

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
    stop_words = frozenset(["aa", "abc", "b", "bb"])
    theirs = CountVectorizer(token_pattern=pattern, min_df=min_df, max_df=max_df, stop_words=[*stop_words])
    words, documents = tokenize(texts, pattern)
    try:
        expected = theirs.fit_transform(texts)
    except ValueError:  # no word is left
        with refused("no word of the"):
            choose_words(words, documents, min_df, max_df, None, stop_words)
        return
    vocabulary = choose_words(words, documents, min_df, max_df, None, stop_words)
    assert vocabulary == theirs.get_feature_names_out().tolist()
    columns = np.array([vocabulary.index(word) if word in vocabulary else -1 for word in words], np.int32)
    tokens = join(documents, columns)
    assert np.array_equal(count_words(tokens, len(vocabulary)).toarray(), expected.toarray())
    in_order = [[word for word in theirs.build_analyzer()(text) if word in vocabulary] for text in texts]
    assert [[vocabulary[i] for i in tokens.ids[a:b]] for a, b in pairwise(tokens.offsets)] == in_order
    assert (tokens.ids.dtype, tokens.offsets.dtype) == (np.int32, np.int64)


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
    found = tokenize(["bb aa cc dd", "bb aa dd", "bb cc ee ee ee"], r"\w+")
    assert [choose_words(*found, max_vocab=n) for n in (1, 2, 3)] == [["bb"], ["aa", "bb"], ["aa", "bb", "cc"]]


@pytest.mark.parametrize(
    ("texts", "options", "most"),
    [
        (["cat dog", "cat dog", "hen cat"], {"min_df": 4}, 3),
        (["cat dog", "cat dog", "hen cat"], {"min_df": 2, "max_df": 0.5}, 3),
        (["cat dog", "cat dog", "hen cat"], {"stop_words": frozenset(["cat", "dog", "hen"])}, 0),
        (["1 2 3", "", "ab"], {}, 0),
    ],
)
def test_no_word_is_left(texts, options, most):
    with refused(
        f"no word of the 3 training documents is left, and the most frequent that is no stop word is in {most}"
    ):
        choose_words(*tokenize(texts), **options)


def test_stop_words(tmp_path):
    assert stop_list("english") > ENGLISH_STOP_WORDS
    assert {"the", "don", "isn"} <= stop_list("english")
    assert stop_list(None) == frozenset()
    (tmp_path / "stop.txt").write_text("Und\noder\n")
    assert stop_list(str(tmp_path / "stop.txt")) == {"und", "oder"}


def test_a_file_of_words_keeps_its_order(tmp_path):
    (tmp_path / "words.txt").write_bytes("\ufeffzebra\r\nant\r\n".encode())
    assert read_words(str(tmp_path / "words.txt"), "vocabulary_path") == ["zebra", "ant"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b" \n\n", "vocabulary_path must have a different word in each line, but {} has no word in line 1"),
        (b"cat\n\ndog", "vocabulary_path must have a different word in each line, but {} has no word in line 2"),
        (b"cat\ndog\r\ncat\r\n", "{} has 'cat' in line 3 as in line 1"),
        (b"caf\xe9\n", "vocabulary_path must be a UTF-8 file with one word a line, got {}"),
        (None, "vocabulary_path must be a UTF-8 file with one word a line, got {}"),
    ],
)
def test_files_of_words_that_are_refused(tmp_path, content, line):
    file = tmp_path / "words.txt"
    if content is not None:
        file.write_bytes(content)
    with refused(line.format(file)):
        read_words(str(file), "vocabulary_path")
