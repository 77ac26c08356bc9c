"""Documents from tables: columns, splits, several files, and what is refused."""

import gzip
import json

import pytest

from tests.helpers.refusal import refused
from vqlab.data.text.file import TextFile

LINES = ["The cat sat on the mat.", "A dog chased the cat.", "Rice and beans for dinner.", "Beans again, and rice."]


def text_file(path, **options):
    return TextFile(path, **{"min_df": 1, "max_df": 1.0, "batch_size": 2, **options})


def jsonl(path, records):
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return str(path)


def documents(path, **options):
    return list(text_file(path, **options).read())


def labels(path, **options):
    return [document.label for document in documents(path, **options)]


def sizes(data):
    return data.train_size, data.val_counts().shape[0], data.test_counts().shape[0]


def test_columns_are_found_by_usual_names_or_given(tmp_path):
    file = jsonl(tmp_path / "a.jsonl", [{"id": 1, "Body": text, "Category": 7, "target": 8} for text in LINES])
    assert documents(file) == [(text, "7", None) for text in LINES]
    assert labels(file, label_column="id") == ["1"] * 4
    file = jsonl(tmp_path / "b.jsonl", [{"text": "cat"}, {"text": "dog", "label": "x"}, {"text": "hen", "n": 1}])
    assert labels(file) == [None, "x", None]
    assert labels(file, label_column="n") == [None, None, "1"]
    for label in (None, ""):
        assert labels(jsonl(tmp_path / "c.jsonl", [{"text": "cat", "label": label}, {"text": "dog"}])) == [None, None]


def test_a_nameless_column_is_no_label(tmp_path):
    (tmp_path / "a.csv").write_text(",text\n0,cat\n1,dog\n")
    assert labels(str(tmp_path / "a.csv")) == [None, None]
    (tmp_path / "b.csv").write_text(",text,label\n0,cat,x\n1,dog,\n")
    assert labels(str(tmp_path / "b.csv")) == ["x", None]


def test_splits_of_a_column_and_of_a_test_file(tmp_path):
    names = ["train", "Validation", "dev", "test"]
    column = jsonl(tmp_path / "a.jsonl", [{"text": x, "split": n} for x, n in zip(LINES, names, strict=True)])
    assert [d.split for d in documents(column)] == ["train", "val", "val", "test"]
    plain = jsonl(tmp_path / "b.jsonl.gz", [{"text": text} for text in LINES * 5])
    test = jsonl(tmp_path / "c.jsonl", [{"text": text} for text in LINES])
    assert sizes(text_file(plain, test_path=test)) == (18, 2, 4)
    assert sizes(text_file([plain, test])) == (20, 2, 2)


def test_the_corpus_of_octis_with_its_vocabulary(tmp_path):
    (tmp_path / "corpus.tsv").write_text(
        "cat dog\ttrain\tpets\nrice x2\ttrain\tfood\ndog\tval\tpets\nrice\ttest\tfood\n"
    )
    (tmp_path / "vocabulary.txt").write_text("dog\nx2\nrice\ncat")
    data = text_file(
        str(tmp_path / "corpus.tsv"), vocabulary_path=str(tmp_path / "vocabulary.txt"), token_pattern=r"\S+"
    )
    assert data.vocabulary == ["dog", "x2", "rice", "cat"]
    assert data.train_counts().toarray().tolist() == [[1, 0, 0, 1], [0, 1, 1, 0]]
    assert data.test_counts().toarray().tolist() == [[0, 0, 1, 0]]
    assert data.class_names == ["food", "pets"]


def test_objects_from_the_wild(tmp_path):
    records = [
        {"data": {"text": None, "topic": {"name": 1.0}}},
        {"data": {"text": ["cat", "sat"], "topic": {"name": float("nan")}}},
        {"data": {"text": "dog", "topic": {"name": 1}}},
    ]
    file = jsonl(tmp_path / "a.jsonl", records)
    found = documents(file, text_column="data.text", label_column="data.topic.name")
    assert [(d.text, d.label) for d in found] == [("", "1"), ("cat sat", None), ("dog", "1")]
    with refused("no column data.body, but data: set text_column"):
        documents(file, text_column="data.body")


@pytest.mark.parametrize(
    ("records", "options", "line"),
    [
        ([{"id": 1, "words": "x"}], {}, "has no column text, but id, words: set text_column=NAME"),
        ([{"text": "x"}], {"label_column": "topic"}, "has no column topic, but text: set label_column=NAME"),
        ([{"text": "x"}, {"title": "y"}], {}, "line 2: the text must be a string or a list of words, got nothing"),
        ([{"text": 3}], {}, "line 1: the text must be a string or a list of words, got 3"),
        ([{"text": "x", "label": ["a", "b"]}], {}, "line 1: the label must be one name or number, got ['a', 'b']"),
        ([{"text": "x", "split": "fold1"}], {}, "line 1: the split must be train, val or test, got 'fold1'"),
    ],
)
def test_records_that_are_refused(tmp_path, records, options, line):
    with refused("a.jsonl", line):
        documents(jsonl(tmp_path / "a.jsonl", records), **options)


@pytest.mark.parametrize("row", ["cat dog", "cat dog\tnews\ta\tb"])
def test_a_table_without_names(tmp_path, row):
    (tmp_path / "corpus.tsv").write_text(f"{row}\n" * 3)
    with refused("corpus.tsv has no column text, but cat dog", "first line with the names of its columns"):
        documents(str(tmp_path / "corpus.tsv"))


def test_files_that_are_refused(tmp_path):
    with refused("path must be a csv, tsv, jsonl or txt file, but", "nowhere.csv is not there"):
        text_file(str(tmp_path / "nowhere.csv"))
    with refused("test_path must be a csv, tsv, jsonl or txt file", "is a folder, which --data=TextFolder reads"):
        text_file(jsonl(tmp_path / "a.jsonl", []), test_path=str(tmp_path))
    with refused("path must name a file"):
        text_file([])
    file = jsonl(tmp_path / "d.jsonl", [{"text": "cat"}] * 9 + [{"text": "dog", "split": "test"}] * 9)
    with refused("each document must have a split, and some that of train, got 9 of test of 18 documents"):
        text_file(file).train_size  # noqa: B018
