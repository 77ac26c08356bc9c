"""Lines of text files: encodings, compression, and what is no text."""

import bz2
import gzip
import io
import lzma
import zipfile

import pytest

from tests.helpers.refusal import refused
from vqlab.data.text.open_text import read_lines, require_encoding

TEXT = "größe and\r\n股票市场\n"


def lines(path, encoding="utf-8"):
    return list(read_lines(path, encoding))


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
        ("a.txt", TEXT.encode("utf-16")),
    ],
)
def test_compressed_files_are_read_by_name_or_by_content(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert "".join(lines(tmp_path / name)) == TEXT


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.txt", b"%PDF-1.7\n%\xe2\xe3", ["is a PDF file", "plain text"]),
        ("a.docx", zipped(a="x", b="y"), ["a ZIP archive"]),
        ("a.zip", zipped(a="x", b="y"), ["holds 2 files", "unpack"]),
        ("a.zip", b"text", ["damaged"]),
        ("a.xz", b"text", ["damaged"]),
        ("a.gz", gzip.compress(gzip.compress(b"text", mtime=0), mtime=0), ["twice"]),
        ("a.txt", "cat and dog".encode("utf-16-le"), ["--data.encoding=utf-16-le"]),
        ("a.txt", "cat and dog".encode("utf-16-be"), ["--data.encoding=utf-16-be"]),
        ("a.txt", "a\n股票市场".encode("gbk"), ["not utf-8 after line", "such as cp1252, gbk or shift_jis"]),
        ("a.txt", b"caf\xe9", ["not utf-8", "save it as that"]),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_is_no_text_in_the_encoding_is_named(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    with refused(name, *words) as caught:
        lines(tmp_path / name)
    assert "latin-1" not in str(caught)
    if "--data.encoding=utf-16" in words[0]:
        assert lines(tmp_path / name, words[0][-9:]) == ["cat and dog"]


def test_a_file_that_cannot_be_opened(tmp_path):
    with refused("cannot be read (Is a directory)", "--data.path"):
        lines(tmp_path)


def test_encodings():
    for unknown in ("utf-9", "base64", "hex"):
        with refused(repr(unknown), "--data.encoding=utf-8"):
            require_encoding(unknown)
    for known in ("latin-1", "GBK", "utf_16"):
        require_encoding(known)
