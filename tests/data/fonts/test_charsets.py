import pytest

from tests.helpers.refusal import refused
from vqlab.data.fonts.charsets import read_charset


def test_named_sets_have_the_sizes_of_their_standards():
    names = ("ascii", "jis1", "jis2", "gb1", "gb2", "big5l1", "big5l2", "hangul")
    assert [len(read_charset(name)) for name in names] == [94, 2965, 3390, 3755, 3008, 5401, 7652, 2350]
    for name, first, last in (("jis1", "亜", "腕"), ("jis2", "弌", "熙"), ("gb1", "啊", "座"), ("big5l1", "一", "籲")):
        codes = read_charset(name)
        assert (chr(codes[0]), chr(codes[-1])) == (first, last)


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [("latin", "AzÄßŁ", "αЯ1"), ("greek", "αΩ", "aЯ"), ("cyrillic", "Яж", "aα"), ("kana", "あんアンッ", "亜a、")],
)
def test_scripts_are_letters_of_their_names(name, inside, outside):
    letters = {chr(code) for code in read_charset(name)}
    assert set(inside) <= letters
    assert not set(outside) & letters


def test_ranges_sets_and_files_are_joined_without_duplicates(tmp_path):
    file = tmp_path / "set.txt"
    file.write_text("\ufeff你好 好\n\n#!\n", encoding="utf-8")
    assert read_charset(str(file)) == [*map(ord, "你好#!")]
    assert read_charset(["U+42-44", str(file), "U+42", "u+1F600"]) == [*map(ord, "BCD你好#!"), 0x1F600]
    assert read_charset("U+4E00-U+4E02") == [0x4E00, 0x4E01, 0x4E02]
    assert set(read_charset(["ascii", "kana"])) == set(read_charset("ascii")) | set(read_charset("kana"))


@pytest.mark.parametrize(
    ("content", "charset", "words"),
    [
        ("abc\ndéf\n".encode("latin1"), "set.txt", ("charset set.txt is not in UTF-8",)),
        (b"\n \n", "set.txt", ("charset must hold a character", "set.txt")),
        (b"", "jis3", ("charset must be of ascii, latin", "ranges (U+4E00-4FFF) and text files, got 'jis3'")),
        (b"", "U+5-4", ("'U+5-4'",)),
        (b"", "U+110000", ("'U+110000'",)),
    ],
)
def test_bad_charsets_give_one_line(tmp_path, monkeypatch, content, charset, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set.txt").write_bytes(content)
    with refused(*words):
        read_charset(charset)
