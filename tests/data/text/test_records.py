"""Text files: encodings, compression, and the records of csv, tsv, JSON and txt files, whole and damaged."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.refusal import refused
from vqlab.data.text.records import check_encoding, kind_of, read_lines, read_records

TEXT = "größe and\r\n股票市场\n"
FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\r\0\ufeff,\t"), max_size=20)


def lines(path, encoding="utf-8"):
    return list(read_lines(path, encoding))


def read(file):
    return [record for _, record in read_records(file)]


def zipped(**files):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, text in files.items():
            file.writestr(name, text)
    return archive.getvalue()


@pytest.mark.parametrize("wrong", ["utf-8", "latin-1", "gbk"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_is_obeyed(tmp_path, encoding, wrong):
    marked = TEXT.encode(encoding) if encoding[-2:] not in ("le", "be") else f"\ufeff{TEXT}".encode(encoding)
    (tmp_path / "a.txt").write_bytes(marked)
    assert lines(tmp_path / "a.txt", wrong) == ["größe and\r\n", "股票市场\n"]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt.gz", gzip.compress(TEXT.encode(), mtime=0)),
        ("a.txt", gzip.compress(TEXT.encode(), mtime=0)),
        ("a.BZ2", bz2.compress(TEXT.encode())),
        ("a.txt", bz2.compress(TEXT.encode())),
        ("a.xz", lzma.compress(TEXT.encode("utf-16"))),
        ("a.txt", lzma.compress(TEXT.encode())),
        ("a.zip", zipped(**{"b/": "", "b/a.txt": TEXT, "__MACOSX/b/._a.txt": "x"})),
        ("a.txt", TEXT.encode()),
    ],
)
def test_compressed_files_are_read_by_name_or_by_content(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert "".join(lines(tmp_path / name)) == TEXT


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"%PDF-1.7\n%\xe2\xe3", ["is not plain text but a document"]),
        ("a.docx.txt", zipped(a="x", b="y"), ["is not plain text"]),
        ("a.gz", gzip.compress(gzip.compress(b"text"), mtime=0), ["is not plain text"]),
        ("a.zip", zipped(a="x", b="y"), ["must hold one file, but holds 2"]),
        ("a.zip", b"text", ["damaged"]),
        ("a.xz", b"text", ["damaged"]),
        ("a.gz", gzip.compress(b'{"text": "x"}\n' * 99, mtime=0)[:-12], ["damaged after line"]),
        ("a.gz", gzip.compress(b'{"text": "x"}\n', mtime=0)[:-8] + b"\0" * 8, ["damaged after line"]),
        ("a.txt", "cat and dog".encode("utf-16-le"), ["set encoding=utf-16-le"]),
        ("a.txt", "cat and dog".encode("utf-16-be"), ["set encoding=utf-16-be"]),
        ("a.txt", "a\n股票市场".encode("gbk"), ["not utf-8 after line", "set encoding=cp1252, gbk"]),
        (".", None, ["cannot be read (Is a directory)"]),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_is_no_text_in_the_encoding_is_named(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with refused(f"{tmp_path / name} ", *words):
        lines(tmp_path / name)
    if "=utf-16" in words[0]:
        assert lines(tmp_path / name, words[0][-9:]) == ["cat and dog"]


def test_encodings_and_kinds_of_files(tmp_path):
    for unknown in ("utf-9", "base64", "hex"):
        with refused("encoding must be one that Python knows", repr(unknown)):
            check_encoding(unknown)
    for known in ("latin-1", "GBK", "utf_16"):
        check_encoding(known)
    for name, kind in (("A.TSV.GZ", ".tsv"), ("a.csv.zip", ".csv"), ("a.ndjson.xz", ".ndjson"), ("a.json", ".json")):
        assert kind_of(tmp_path / name) == kind
    for name in ("a.parquet", "a.zip"):
        with refused(f"{name} must be one of", ".jsonl", ".bz2"):
            kind_of(tmp_path / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


# Fields without the separator: with it a line within a field may be a row by itself.
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
        ("a.csv", "text,label\nx,y\nx,y,z\n", ["3 fields in line 3", "2 columns"]),
        ("a.csv", 'text,label\nx,y\n"x" z,y\n', ["line 3"]),
        ("a.csv", 'text,label\nx,y\n"x,y\n', ["line 3", "twice"]),
        ("a.csv", "id,text,text\n1,a,b\n", ["several columns 'text'", "rename"]),
        ("a.tsv", "a b\ttrain\tx\na b\ttrain\n", ["2 fields in line 2", "3 columns"]),
        ("a.tsv", 'label\ttext\nx\t"one\ntwo"\nragged\n', ["1 fields in line 4", "2 columns"]),
        ("a.jsonl", '{"text": "x"}\n\n{"text": \n', ["no JSON in line 3"]),
        ("a.jsonl", '{"text": "x"}\n["x"]\n', ["no object in line 2"]),
        ("a.json", '\n["a", "b"]', ["no object in item 1"]),
    ],
)
def test_damaged_tables_are_named(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with refused(f"{tmp_path / name} ", *words):
        read(tmp_path / name)


TITLES = '"Leave means leave, says minister{0}news\ncat dog fish{0}pets\na screen of 12"{0}tech\n'


def test_each_line_of_a_tsv_is_a_row_if_it_has_the_tabs(tmp_path):
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + TITLES.format("\t") * 2 + '\n"Say ""no""" now\tx\n"a ""b"""\ty\n')
    rows = [(record["text"], record["label"]) for record in read(tmp_path / "a.tsv")]
    three = [('"Leave means leave, says minister', "news"), ("cat dog fish", "pets"), ('a screen of 12"', "tech")]
    assert rows == [*three, *three, ('"Say ""no""" now', "x"), ('a "b"', "y")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text;label\nhen;x\n" + TITLES.format(";") * 3),
        ("b.csv", "text\tlabel\nhen\tx\n" + TITLES.format("\t") * 3),
        ("c.csv", "text,label\nhen,x\n" + TITLES.format(",").replace("leave, ", "")),
        ("d.tsv", "text\tlabel\nhen\tx\n" + TITLES.format("\t").replace("fish\tpets", "fish")),
    ],
)
def test_quoted_fields_that_contain_other_rows_are_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with refused(name, "has a quoted field in the lines 3 to 5, which may be rows", "twice"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.tsv", 'text\tlabel\n"one\ntwo three"\tx\ncat\ty\n', ["one\ntwo three", "cat"]),
        ("b.csv", 'text,label\na,b\n"one, two\nthree",x\n"four\nfive",y\n', ["a", "one, two\nthree", "four\nfive"]),
        ("c.csv", 'text\n"one\ntwo"\n', ["one\ntwo"]),
        ("d.csv", "text;label;\na, b;c;d\n", ["a, b"]),
    ],
)
def test_quoted_fields_may_span_lines(tmp_path, name, content, texts):
    (tmp_path / name).write_text(content)
    assert [record["text"] for record in read(tmp_path / name)] == texts


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
    (tmp_path / name).write_text("")
    assert read(tmp_path / name) == []
