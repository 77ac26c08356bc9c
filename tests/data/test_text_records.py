"""Records of csv, tsv, jsonl and txt files, whole and damaged."""

import csv
import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused

from vqlab.data.text_records import kind_of, read_records, require_encoding

FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\r\0\ufeff"), max_size=20)


def read(file):
    return [record for _, record in read_records(file)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(FIELD, FIELD), max_size=5), suffix=st.sampled_from(["csv", "tsv", "jsonl", "csv.gz"]))
def test_what_is_written_is_read(folder, rows, suffix):
    file = folder / f"rows.{suffix}"
    records = [{"text": text, "label": label} for text, label in rows]
    with (gzip.open if suffix.endswith("gz") else open)(file, "wt", encoding="utf-8", newline="") as out:
        if suffix == "jsonl":
            out.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        else:
            writer = csv.DictWriter(out, ["text", "label"], dialect="excel-tab" if suffix == "tsv" else "excel")
            writer.writeheader()
            writer.writerows(records)
    assert read(file) == records


def test_a_txt_file_has_a_document_in_each_line(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffé cat, \n\nA dog\r\n".encode())
    assert [record["text"].strip() for record in read(tmp_path / "a.txt")] == ["é cat,", "", "A dog"]


def test_the_tsv_of_octis_has_no_names(tmp_path):
    (tmp_path / "corpus.tsv").write_text('"cat dog\ttrain\tpets\nrice bean\tdev\tfood\n')
    assert list(read_records(tmp_path / "corpus.tsv")) == [
        (1, {"text": '"cat dog', "split": "train", "label": "pets"}),
        (2, {"text": "rice bean", "split": "dev", "label": "food"}),
    ]
    (tmp_path / "two.tsv").write_text("cat\ttest\n")
    assert read(tmp_path / "two.tsv") == [{"text": "cat", "split": "test"}]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_of_any_separator_and_a_long_field(tmp_path, separator):
    long = "word " * 100_000
    (tmp_path / "a.csv").write_text(f'id{separator} text \n1{separator}"{long}"\n\n')
    assert read(tmp_path / "a.csv") == [{"id": "1", "text": long}]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"text,label\nx,y\nx,y,z\n", ["3 fields in line 3", "2 columns"]),
        ("a.csv", b'text,label\nx,y\n"x" z,y\n', ["line 3"]),
        ("a.csv", b'text,label\nx,y\n"x,y\n', ["line 3", "twice"]),
        ("a.tsv", b"a b\ttrain\tx\na b\ttrain\n", ["2 fields in line 2", "3 columns"]),
        ("a.jsonl", b'{"text": "x"}\n\n{"text": \n', ["no JSON in line 3"]),
        ("a.jsonl", b'{"text": "x"}\n["x"]\n', ["no object in line 2"]),
        ("a.txt", b"cat\ncaf\xe9\n", ["is not utf-8", "--data.encoding=latin-1"]),
        ("a.jsonl.gz", b"no archive", ["damaged after line 0"]),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 99, mtime=0)[:-12], ["damaged after line"]),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n', mtime=0)[:-8] + b"\0" * 8, ["damaged after line"]),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with refused(f"{tmp_path / name}", *words):
        read(tmp_path / name)


def test_other_kinds_and_encodings(tmp_path):
    assert kind_of(tmp_path / "A.TSV.GZ") == ".tsv"
    with refused("a.parquet is none of", ".jsonl", "--data.path"):
        kind_of(tmp_path / "a.parquet")
    with refused("'utf-9'", "--data.encoding=utf-8"):
        require_encoding("utf-9")
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    assert list(read_records(tmp_path / "a.txt", "latin-1")) == [(1, {"text": "café"})]
