import unicodedata

import pytest

from vqlab.data.fonts.charsets import NAMED, read_charset
from vqlab.errors import UserError
from vqlab.fonts.font_tables import is_wide


def test_named_sets_have_the_sizes_of_their_standards():
    sizes = {"ascii": 94, "jis1": 2965, "jis2": 3390, "gb1": 3755, "gb2": 3008, "big5l1": 5401, "big5l2": 7652}
    sizes["hangul"] = 2350
    assert {name: len(read_charset(name)) for name in sizes} == sizes
    for name, first, last in (("jis1", "亜", "腕"), ("jis2", "弌", "熙"), ("gb1", "啊", "座"), ("big5l1", "一", "籲")):
        codes = read_charset(name)
        assert (chr(codes[0]), chr(codes[-1])) == (first, last)


def test_scripts_are_letters_of_their_names():
    for name, inside, outside in (
        ("latin", "AzÄßŁ", "αЯ1"),
        ("greek", "αΩ", "aЯ"),
        ("cyrillic", "Яж", "aα"),
        ("kana", "あアッー", "亜a、"),
    ):
        letters = "".join(map(chr, read_charset(name)))
        assert all(letter in letters for letter in inside if unicodedata.name(letter).startswith(name.upper()))
        assert not any(letter in letters for letter in outside)
    assert {chr(code) for code in read_charset("kana")} >= set("あんアン")


def test_ranges_sets_and_files_make_one_set_without_repeats(tmp_path):
    file = tmp_path / "set.txt"
    file.write_text("\ufeff# a comment\n你好 好\n\nU+41-43\n#!\nu+1F600\n", encoding="utf-8")
    assert read_charset(str(file)) == [*map(ord, "你好ABC#!"), 0x1F600]
    assert read_charset(["U+42-44", str(file), "U+42"]) == [*map(ord, "BCD你好A#!"), 0x1F600]
    assert read_charset("U+4E00-U+4E02") == [0x4E00, 0x4E01, 0x4E02]
    assert set(read_charset(["ascii", "kana"])) == set(read_charset("ascii")) | set(read_charset("kana"))


def test_what_cannot_be_read_is_named(tmp_path):
    latin = tmp_path / "latin1.txt"
    latin.write_bytes("abc\ndéf\n".encode("latin1"))
    odd = tmp_path / "odd.txt"
    odd.write_text("abc\nU+4E00..4E10\n")
    empty = tmp_path / "empty.txt"
    empty.write_text("# nothing\n \n")
    cases = {
        str(latin): r"line 2 of .*latin1.txt is not UTF-8: save the file as UTF-8",
        str(odd): r"line 2 of .*odd.txt, 'U\+4E00..4E10', is no range of code points",
        str(empty): r"empty.txt holds no characters: set --data.charset=auto",
        "jis3": r"charset 'jis3' is no set \(ascii, latin, .*\), no range \(U\+4E00-4FFF\) and no file",
        str(tmp_path): r"is no set .* and no file",
        "U+5-4": r"charset 'U\+5-4' is no range",
        "U+110000": r"is no range",
        "U+": r"is no range",
    }
    for charset, message in cases.items():
        with pytest.raises(UserError, match=message) as error:
            read_charset(charset)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"holds no characters"):
        read_charset([])


def test_wide():
    assert [is_wide(ord(letter)) for letter in "亜あＡ한aαｱ"] == [True] * 4 + [False] * 3
    assert all(callable(make) for make in NAMED.values())
