"""Documents from tables: formats, columns, splits, several files, and what is refused."""

import bz2
import csv
import gzip
import json
import lzma

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.refusal import refused
from vqlab.data.text.file import TextFile, kind_of, read_table

LINES = ["The cat sat on the mat.", "A dog chased the cat.", "Rice and beans for dinner.", "Beans again, and rice."]
FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\r\0\ufeff,\t"), max_size=20)
OPEN = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def text_file(path, **options):
    return TextFile(path, **{"min_df": 1, "max_df": 1.0, "batch_size": 2, **options})


def jsonl(path, records):
    with OPEN.get(path.suffix, open)(path, "wt") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return str(path)


def documents(path, **options):
    return list(text_file(str(path), **options).read())


def labels(path, **options):
    return [document.label for document in documents(path, **options)]


def sizes(data):
    return data.train_size, data.val_counts().shape[0], data.test_counts().shape[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=5),
    suffix=st.sampled_from(["csv", "tsv", "jsonl", "csv.gz", "tsv.bz2", "jsonl.xz"]),
)
def test_what_is_written_is_read(folder, rows, suffix):
    file = folder / f"rows.{suffix}"
    records = [{"text": text, "label": label} for text, label in rows]
    with OPEN.get(file.suffix, open)(file, "wt", encoding="utf-8", newline="") as out:
        if "jsonl" in suffix:
            out.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        else:
            writer = csv.DictWriter(out, ["text", "label"], dialect="excel-tab" if "tsv" in suffix else "excel")
            writer.writeheader()
            writer.writerows(records)
    assert read_table(str(file), "utf-8").to_dict("records") == records


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", "\ufeffé cat,\n\nA dog\r\n", ["é cat,", "", "A dog"]),
        ("a.csv", "id; text \n1;cat, dog\n\n", ["cat, dog"]),
        ("a.csv", "id|text\n1|cat, dog\n", ["cat, dog"]),
        ("a.csv", 'text,label\na,b\n"one, two\nthree",x\n', ["a", "one, two\nthree"]),
        ("a.csv", f"text\n{'word ' * 100_000}\n", ["word " * 100_000]),
        ("a.tsv", 'text\tlabel\n"one\ntwo three"\tx\ncat\ty\n', ["one\ntwo three", "cat"]),
        ("a.json", '[{"text": "a"},\n {"text": null}]', ["a", ""]),
        ("a.jsonl", '\n[\n{"text": "a"}, {"text": NaN}\n]\n', ["a", ""]),
        ("a.ndjson", '{"text": "a"}\n\n{"label": 1}\n', ["a", ""]),
    ],
)
def test_formats(tmp_path, name, content, texts):
    (tmp_path / name).write_text(content)
    assert [document.text.rstrip("\r\n") for document in documents(tmp_path / name)] == [t.rstrip("\n") for t in texts]


def test_encodings_and_kinds_of_files(tmp_path):
    for encoding in ("utf-16", "gbk"):
        (tmp_path / "a.csv").write_bytes("text,label\n股票,市场\n".encode(encoding))
        assert documents(tmp_path / "a.csv", encoding=encoding) == [("股票", "市场", None)]
    for name, kind in (("A.TSV.GZ", ".tsv"), ("a.csv.zip", ".csv"), ("a.b.json", ".json"), ("a.zip", None)):
        assert kind_of(name) == kind


def test_columns_are_found_by_usual_names_or_given(tmp_path):
    file = jsonl(tmp_path / "a.jsonl", [{"id": 1, "Body": text, "Category": 7, "target": 8} for text in LINES])
    assert documents(file) == [(text, "7", None) for text in LINES]
    assert labels(file, label_column="id") == ["1"] * 4
    file = jsonl(tmp_path / "b.jsonl", [{"text": "cat"}, {"text": "dog", "label": "x"}, {"text": "hen", "n": 1}])
    assert labels(file) == [None, "x", None]
    assert labels(file, label_column="n") == [None, None, "1"]
    (tmp_path / "a.csv").write_text(",text,label\n0,cat,x\n1,dog,\n")
    assert labels(tmp_path / "a.csv") == ["x", None]
    nested = [{"data": {"text": ["cat", "sat"], "topic": {"name": 1}}}, {"data": {"text": None}}]
    file = jsonl(tmp_path / "c.jsonl", nested)
    found = documents(file, text_column="data.text", label_column="data.topic.name")
    assert [(d.text, d.label) for d in found] == [("cat sat", "1"), ("", None)]


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
        '"cat dog\ttrain\tpets\nrice x2\ttrain\tfood\ndog\tval\tpets\nrice\ttest\tfood\n'
    )
    (tmp_path / "vocabulary.txt").write_text("dog\nx2\nrice\ncat")
    data = text_file(
        str(tmp_path / "corpus.tsv"), vocabulary_path=str(tmp_path / "vocabulary.txt"), token_pattern=r"\w+"
    )
    assert data.vocabulary == ["dog", "x2", "rice", "cat"]
    assert data.train_counts().toarray().tolist() == [[1, 0, 0, 1], [0, 1, 1, 0]]
    assert data.test_counts().toarray().tolist() == [[0, 0, 1, 0]]
    assert data.class_names == ["food", "pets"]


@pytest.mark.parametrize(
    ("name", "content", "options", "line"),
    [
        ("a.csv", "text,label\nx,y\nx,y,z\n", {}, "Expected 2 fields in line 3, saw 3"),
        ("a.csv", 'text,label\nx,y\n"x,y\n', {}, "EOF inside string"),
        ("a.csv", "text\ncaf\xe9\n", {"encoding": "ascii"}, "set encoding=cp1252"),
        ("a.csv", "text\ncat\n", {"encoding": "utf-9"}, "unknown encoding: utf-9"),
        ("a.tsv", 'text\tn\n"Leave, he said\tx\ndog\ty\n12"\tz\n', {}, "a quoted field holds other rows"),
        ("a.tsv", "cat dog\tnews\ta\n", {}, "has no column text, but cat dog, news, a: set text_column=NAME"),
        ("a.jsonl", '{"text": "x"}\n{"text": \n', {}, "Expecting value: line 3"),
        ("a.jsonl", '["x"]\n', {}, "cannot be read"),
        ("a.jsonl.gz", "no gzip", {}, "Not a gzipped file"),
        ("a.jsonl", '{"text": "x"}', {"label_column": "topic"}, "no column topic, but text: set label_column=NAME"),
        ("a.jsonl", '{"text": 3}', {}, "record 1: the text must be words, got 3"),
        ("a.jsonl", '{"text": "x", "split": "fold1"}', {}, "the split must be train, val or test, got 'fold1'"),
        ("a.docx", "", {}, "path must name files with .csv, .tsv"),
        (".", None, {}, "a folder is read by --data=TextFolder"),
    ],
)
def test_files_that_are_refused(tmp_path, name, content, options, line):
    if content is not None:
        (tmp_path / name).write_text(content)
    with refused(line, str(tmp_path / name)):
        documents(tmp_path / name, **options)


def test_a_split_of_some_documents_alone_is_refused(tmp_path):
    file = jsonl(tmp_path / "d.jsonl", [{"text": "cat"}] * 9 + [{"text": "dog", "split": "test"}] * 9)
    with refused("each document must have a split, and some that of train, got 9 of test of 18 documents"):
        text_file(file).train_size  # noqa: B018
