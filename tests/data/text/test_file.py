"""Documents from tables and folders: formats, encodings, columns, labels and splits."""

import bz2
import csv
import gzip
import json
import lzma

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.refusal import refused
from vqlab.data.text.file import TextFile, TextFolder, kind_of, read_table

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
    return tuple(len(data.load_split(split)) for split in ("train", "val", "test"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=5),
    suffix=st.sampled_from(["csv", "tsv", "jsonl", "csv.gz", "tsv.bz2", "jsonl.xz"]),
)
def test_tables_are_read_as_written(folder, rows, suffix):
    file = folder / f"rows.{suffix}"
    records = [{"text": text, "label": label} for text, label in rows]
    with OPEN.get(file.suffix, open)(file, "wt", encoding="utf-8", newline="") as out:
        if "jsonl" in suffix:
            out.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        else:
            writer = csv.DictWriter(out, ["text", "label"], dialect="excel-tab" if "tsv" in suffix else "excel")
            writer.writeheader()
            writer.writerows(records)
    table = read_table(str(file), "utf-8")
    assert [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)] == records


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", "\ufeffé cat,\n\nA dog\r\n", ["é cat,", "", "A dog"]),
        ("a.csv", "id; text \n1;cat, dog\n\n", ["cat, dog"]),
        ("a.csv", "id|text\n1|cat, dog\n", ["cat, dog"]),
        ("a.csv", 'text,label\na,b\n"one, two, and\nthree",x\n', ["a", "one, two, and\nthree"]),
        ("a.csv", f"text\n{'word ' * 100_000}\n", ["word " * 100_000]),
        ("a.csv", 'text\n"one\ntwo"\nthree\n', ["one\ntwo", "three"]),
        ("a.tsv", 'text\tlabel\n"one\ntwo three"\tx\ncat\ty\n', ["one\ntwo three", "cat"]),
        ("a.json", '[{"text": "a"},\n {"text": null}]', ["a", ""]),
        ("a.jsonl", '\n[\n{"text": "a"}, {"text": NaN}\n]\n', ["a", ""]),
        ("a.ndjson", '{"text": "a"}\n\n{"label": 1}\n', ["a", ""]),
    ],
)
def test_texts_of_all_formats(tmp_path, name, content, texts):
    (tmp_path / name).write_text(content)
    assert [document.text.rstrip("\r\n") for document in documents(tmp_path / name)] == [t.rstrip("\n") for t in texts]


def test_encodings_and_extensions(tmp_path):
    for encoding in ("utf-16", "gbk"):
        (tmp_path / "a.csv").write_bytes("text,label\n股票,市场\n".encode(encoding))
        assert documents(tmp_path / "a.csv", encoding=encoding) == [("股票", "市场", None)]
    for name, kind in (("A.TSV.GZ", ".tsv"), ("a.csv.zip", ".csv"), ("a.b.json", ".json"), ("a.zip", None)):
        assert kind_of(name) == kind


def test_columns_have_default_names_or_given_ones(tmp_path):
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


def test_splits_from_a_column_and_from_a_test_file(tmp_path):
    names = ["train", "Validation", "dev", "test"]
    column = jsonl(tmp_path / "a.jsonl", [{"text": x, "split": n} for x, n in zip(LINES, names, strict=True)])
    assert [d.split for d in documents(column)] == ["train", "val", "val", "test"]
    plain = jsonl(tmp_path / "b.jsonl.gz", [{"text": text} for text in LINES * 5])
    test = jsonl(tmp_path / "c.jsonl", [{"text": text} for text in LINES])
    assert sizes(text_file(plain, test_path=test)) == (18, 2, 4)
    assert sizes(text_file([plain, test])) == (20, 2, 2)


def test_octis_corpus_with_its_vocabulary(tmp_path):
    lines = ['"cat dog\ttrain\tpets', "rice x2\ttrain\tfood", "dog\tval\tpets", "rice\ttest\tfood"]
    (tmp_path / "corpus.tsv").write_text("\n".join(lines))
    (tmp_path / "vocabulary.txt").write_text("dog\nx2\nrice\ncat")
    data = text_file("corpus.tsv", vocabulary_path="vocabulary.txt", token_pattern=r"\w+")
    assert data.vocabulary == ["dog", "x2", "rice", "cat"]
    assert data.train_counts().toarray().tolist() == [[1, 0, 0, 1], [0, 1, 1, 0]]
    assert data.test_counts().toarray().tolist() == [[0, 0, 1, 0]]
    assert data.class_names == ["food", "pets"]


@pytest.mark.parametrize(
    ("name", "content", "options", "line"),
    [
        ("a.csv", "text,label\nx,y\nx,y,z\n", {}, "row 3 has 3 fields of 2"),
        ("a.csv", "text,label,n\nx,y,1\nx,y\n", {}, "row 3 has 2 fields of 3"),
        ("a.csv", 'text,label\n"Leave now,y\ndog,y\n12",z\n', {}, "a quoted field contains other rows"),
        ("a.csv", 'text,label\nx,y\n"x,y\n', {}, "a quote is never closed"),
        ("a.csv", "\n", {}, "it is empty"),
        ("a.csv", "text\ncaf\xe9\n", {"encoding": "ascii"}, "set encoding=cp1252"),
        ("a.csv", "text\ncat\n", {"encoding": "utf-9"}, "unknown encoding: utf-9"),
        ("a.csv", 'label,text\nx,"a\nb"\ny,"Leave now\nz,dog\n', {}, "a quote is never closed"),
        ("a.tsv", 'text\tn\n"Leave, he said\tx\ndog\ty\n12"\tz\n', {}, "a quoted field contains other rows"),
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
def test_invalid_files_are_refused(tmp_path, name, content, options, line):
    if content is not None:
        (tmp_path / name).write_text(content)
    with refused(line, str(tmp_path / name)):
        documents(tmp_path / name, **options)


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def folder_documents(path, **options):
    return list(TextFolder(str(path), **options).read())


def test_first_folder_is_the_label_of_files_at_any_depth(tmp_path):
    write(
        tmp_path, {"pets/a/1": "the cat", "pets/2": "the dog", "food/1": "the rice", "loose": "a hen", "pets/a/3": ""}
    )
    write(tmp_path, {".hidden": "x", ".git/objects/ab": b"\xff\xfe", "__MACOSX/a": b"\xff"})
    found = [("the rice", "food"), ("a hen", None), ("the dog", "pets"), ("the cat", "pets"), ("", "pets")]
    assert folder_documents(tmp_path) == [(text, label, None) for text, label in found]


@pytest.mark.parametrize(
    "names", [{"train": "train", "test": "test"}, {"Training": "train", "dev": "val", "eval": "test"}]
)
def test_folders_give_the_splits(tmp_path, names):
    for name in names:
        write(tmp_path / name, {"pos/1": name, "neg/1": "bad", "neg/2": "bad again"})
    found = folder_documents(tmp_path)
    assert {(d.text, d.split) for d in found if d.label == "pos"} == set(names.items())
    assert {d.text for d in found if d.label == "neg" and d.split == "train"} == {"bad", "bad again"}


def test_encodings_and_compression_of_files_in_a_folder(tmp_path):
    with refused("holds no text files"):
        folder_documents(tmp_path)
    write(tmp_path, {"a": "cat", "b": b"caf\xe9 noir", "c.gz": gzip.compress(b"dog")})
    with refused(f"{tmp_path / 'b'} cannot be read ('utf-8' codec", "set encoding="):
        folder_documents(tmp_path)
    assert [d.text for d in folder_documents(tmp_path, encoding="latin-1")] == ["cat", "café noir", "dog"]
