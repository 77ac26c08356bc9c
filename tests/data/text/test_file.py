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


def documents(data):
    return list(data.read())


def test_columns_are_found_by_usual_names_or_given(tmp_path):
    usual = jsonl(tmp_path / "a.jsonl", [{"id": 1, "Body": text, "Category": 7, "target": 8} for text in LINES])
    assert [(d.text, d.label, d.split) for d in documents(text_file(usual))] == [(text, "7", None) for text in LINES]
    given = text_file(usual, text_column="Category", label_column="id", split_column="Body")
    assert given.columns == {"text": "Category", "label": "id", "split": "Body"}
    for label in (None, ""):
        file = jsonl(tmp_path / "b.jsonl", [{"text": "cat", "label": label}, {"text": "dog"}])
        assert [d.label for d in documents(text_file(file))] == [None, None]


def test_splits_of_a_column_and_of_a_test_file(tmp_path):
    names = ["train", "Validation", "dev", "test"]
    column = jsonl(tmp_path / "a.jsonl", [{"text": x, "split": n} for x, n in zip(LINES, names, strict=True)])
    assert [d.split for d in documents(text_file(column))] == ["train", "val", "val", "test"]
    plain = jsonl(tmp_path / "b.jsonl.gz", [{"text": text} for text in LINES * 5])
    test = jsonl(tmp_path / "c.jsonl", [{"text": text} for text in LINES])
    data = text_file(plain, test_path=test)
    assert (data.train_size, data.val_counts().shape[0], data.test_counts().shape[0]) == (18, 2, 4)
    drawn = text_file([plain, test])
    assert (drawn.train_size, drawn.val_counts().shape[0], drawn.test_counts().shape[0]) == (20, 2, 2)


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


@pytest.mark.parametrize(
    ("record", "options", "words"),
    [
        ({"id": 1, "words": "x"}, {}, ["no column text, but id, words", "--data.text_column"]),
        ({"text": "x"}, {"label_column": "topic"}, ["no column topic, but text", "--data.label_column"]),
        ({"text": 3}, {}, ["no text under text in line 1", "3"]),
        ({"text": "x", "split": "fold1"}, {}, ["'fold1' in line 1", "--data.split_column"]),
    ],
)
def test_records_that_are_refused(tmp_path, record, options, words):
    file = jsonl(tmp_path / "a.jsonl", [record])
    with refused("a.jsonl", *words):
        documents(text_file(file, **options))


def test_a_line_without_text_and_a_csv_without_the_column(tmp_path):
    file = jsonl(tmp_path / "a.jsonl", [{"text": "x"}, {"title": "y"}])
    with refused("line 2", "None"):
        documents(text_file(file))
    (tmp_path / "a.csv").write_text("id,headline\n1,x\n")
    with refused("a.csv has no column text, but id, headline"):
        documents(text_file(str(tmp_path / "a.csv")))


def test_a_nameless_column_is_no_label(tmp_path):
    (tmp_path / "a.csv").write_text(",text\n0,cat\n1,dog\n")
    assert [d.label for d in documents(text_file(str(tmp_path / "a.csv")))] == [None, None]
    (tmp_path / "b.csv").write_text(",text,label\n0,cat,x\n1,dog,\n")
    assert [d.label for d in documents(text_file(str(tmp_path / "b.csv")))] == ["x", None]


def test_columns_may_come_after_the_first_object(tmp_path):
    file = jsonl(tmp_path / "a.jsonl", [{"text": "cat"}, {"text": "dog", "label": "x"}, {"text": "hen", "n": 1}])
    assert [d.label for d in documents(text_file(file))] == [None, "x", None]
    assert [d.label for d in documents(text_file(file, label_column="n"))] == [None, None, "1"]
    file = jsonl(tmp_path / "b.jsonl", [{"text": "cat", "category": "x"}, {"text": "dog", "label": "y"}])
    with refused("label under label in line 2, but under category before", "--data.label_column"):
        documents(text_file(file))
    file = jsonl(tmp_path / "c.jsonl", [{"text": "cat", "Text": "dog"}])
    with refused("the columns text and Text", "--data.text_column"):
        documents(text_file(file))
    file = jsonl(tmp_path / "d.jsonl", [{"text": "cat"}] * 9 + [{"text": "dog", "split": "test"}] * 9)
    with refused("9 of 18 documents have a split", "--data.split_column"):
        text_file(file).train_size  # noqa: B018


def test_objects_from_the_wild(tmp_path):
    records = [
        {"data": {"text": None, "topic": {"name": 1.0}}},
        {"data": {"text": ["cat", "sat"], "topic": {"name": float("nan")}}},
        {"data": {"text": "dog", "topic": {"name": 1}}},
    ]
    file = jsonl(tmp_path / "a.jsonl", records)
    found = documents(text_file(file, text_column="data.text", label_column="data.topic.name"))
    assert [(d.text, d.label) for d in found] == [("", "1"), ("cat sat", None), ("dog", "1")]
    with refused("no column data.body", "--data.text_column"):
        documents(text_file(file, text_column="data.body"))
    file = jsonl(tmp_path / "b.jsonl", [{"text": "cat", "label": ["x", "y"]}])
    with refused("no class under label in line 1", "['x', 'y']"):
        documents(text_file(file))


@pytest.mark.parametrize("row", ["cat dog", "cat dog\tnews\ta\tb"])
def test_a_table_without_names(tmp_path, row):
    (tmp_path / "corpus.tsv").write_text(f"{row}\n" * 3)
    with refused("corpus.tsv has no column text, but cat dog", "first line with the names of its columns"):
        documents(text_file(str(tmp_path / "corpus.tsv")))


def test_missing_files(tmp_path):
    with refused("nowhere.csv is not a file", "--data.path"):
        text_file(str(tmp_path / "nowhere.csv"))
    file = jsonl(tmp_path / "a.jsonl", [{"text": "x"}])
    with refused("b.jsonl is not a file", "--data.test_path"):
        text_file(file, test_path=str(tmp_path / "b.jsonl"))
    with refused("is a folder, not a file", "--data.path", "--data=TextFolder"):
        text_file(str(tmp_path))
    with refused("path is empty"):
        text_file([])
