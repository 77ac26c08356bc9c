"""Records of csv, tsv, jsonl and txt files, whole and damaged."""

import csv
import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.refusal import refused
from vqlab.data.text.records import kind_of, read_records

FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\r\0\ufeff,\t"), max_size=20)


def read(file):
    return [record for _, record in read_records(file)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


# A tab within a field may make a line of a field a row by itself: see test_a_table_whose_lines_are_rows.
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
        ("line 1", {"text": '"cat dog', "split": "train", "label": "pets"}),
        ("line 2", {"text": "rice bean", "split": "dev", "label": "food"}),
    ]
    (tmp_path / "two.tsv").write_text("cat\ttest\n")
    assert read(tmp_path / "two.tsv") == [{"text": "cat", "split": "test"}]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
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
        ("a.txt", b"cat\ncaf\xe9\n", ["is not utf-8 after line", "--data.encoding to", "cp1252, gbk"]),
        ("a.jsonl.gz", b"no archive", ["damaged after line 0"]),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 99, mtime=0)[:-12], ["damaged after line"]),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n', mtime=0)[:-8] + b"\0" * 8, ["damaged after line"]),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with refused(f"{tmp_path / name}", *words):
        read(tmp_path / name)


def test_other_kinds(tmp_path):
    for name, kind in (("A.TSV.GZ", ".tsv"), ("a.csv.zip", ".csv"), ("a.ndjson.xz", ".ndjson"), ("a.json", ".json")):
        assert kind_of(tmp_path / name) == kind
    for name in ("a.parquet", "a.zip"):
        with refused(f"{name} is none of", ".jsonl", ".bz2", "--data.path"):
            kind_of(tmp_path / name)


TITLES = '"Leave means leave, says minister{0}news\ncat dog fish{0}pets\na screen of 12"{0}tech\n'


def test_each_line_of_a_tsv_is_a_row_if_it_has_the_tabs(tmp_path):
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + TITLES.format("\t") * 2 + '\n"Say ""no""" now\tx\n"a ""b"""\ty\n')
    rows = [(record["text"], record["label"]) for record in read(tmp_path / "a.tsv")]
    three = [('"Leave means leave, says minister', "news"), ("cat dog fish", "pets"), ('a screen of 12"', "tech")]
    assert rows == [*three, *three, ('"Say ""no""" now', "x"), ('a "b"', "y")]


def test_a_table_whose_lines_are_rows(tmp_path):
    """A quoted field may run over lines, but not where each of them is a row, too."""
    (tmp_path / "a.tsv").write_text('text\tlabel\n"one\ntwo\tthree"\tx\ncat\ty\n')
    assert [record["text"] for record in read(tmp_path / "a.tsv")] == ["one\ntwo\tthree", "cat"]
    for name, separator in (("a.csv", ";"), ("b.csv", "\t")):
        (tmp_path / name).write_text(f"text{separator}label\nhen{separator}x\n" + TITLES.format(separator) * 3)
        with refused(name, "from line 3 to 5", "rows by themselves", "twice"):
            read(tmp_path / name)
    (tmp_path / "b.tsv").write_text("text\tlabel\n" + TITLES.format("\t").replace("fish\tpets", "fish"))
    with refused("b.tsv"):
        read(tmp_path / "b.tsv")
    (tmp_path / "c.tsv").write_text('label\ttext\nx\t"one\ntwo"\nragged\n')
    with refused("c.tsv has 1 fields in line 4, but 2 columns"):
        read(tmp_path / "c.tsv")
    (tmp_path / "c.csv").write_text("text,label\n" + TITLES.format(",").replace("leave, ", "") + '"one\ntwo",x\n')
    assert read(tmp_path / "c.csv")[1] == {"text": "one\ntwo", "label": "x"}
    (tmp_path / "d.csv").write_text('text\n"one\ntwo"\n')
    assert read(tmp_path / "d.csv") == [{"text": "one\ntwo"}]


def test_names_of_columns(tmp_path):
    (tmp_path / "a.csv").write_text("id,text,text\n1,a,b\n")
    with refused("a.csv has several columns called 'text'", "rename"):
        read(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("text, plain;label;\na, b;c;d\n")
    assert read(tmp_path / "b.csv") == [{"text, plain": "a, b", "label": "c", "": "d"}]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson"])
@pytest.mark.parametrize(
    ("content", "word"),
    [
        ('[{"text": "a"},\n {"text": null}]', "item"),
        ('\ufeff\n[\n{"text": "a"}, {"text": NaN}\n]\n', "item"),
        ('{"text": "a"}\n{"text": NaN}\n', "line"),
    ],
)
def test_objects_of_lines_and_of_an_array(tmp_path, name, content, word):
    (tmp_path / name).write_text(content)
    assert list(read_records(tmp_path / name)) == [(f"{word} 1", {"text": "a"}), (f"{word} 2", {"text": None})]
    (tmp_path / name).write_text('\n["a", "b"]')
    with refused("no object in item 1"):
        read(tmp_path / name)
    (tmp_path / name).write_text("")
    assert read(tmp_path / name) == []
