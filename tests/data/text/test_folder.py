"""Documents from folders of text files."""

import re

import pytest

from tests.helpers.refusal import refused
from vqlab.data.text.folder import TextFolder


def write(root, **files):
    for name, text in files.items():
        file = root.joinpath(*re.split(r"(?<=.)__", name))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(root)


def folder(path, **options):
    return TextFolder(path, **{"min_df": 1, "max_df": 1.0, "batch_size": 1, **options})


def test_files_at_any_depth_with_the_first_folder_as_label(tmp_path):
    path = write(
        tmp_path,
        pets__a__1="the cat",
        pets__2="the dog",
        food__1="the rice",
        loose="the hen",
        pets__a__3="",
        **{".hidden": "x"},
    )
    assert list(folder(path).read()) == [
        ("the rice", "food", None),
        ("the hen", None, None),
        ("the dog", "pets", None),
        ("the cat", "pets", None),
        ("", "pets", None),
    ]
    data = folder(path, stop_words=None, val_fraction=0.5, test_fraction=0)
    assert data.class_names == ["food", "pets"]


@pytest.mark.parametrize("others", [["test"], ["val"], ["val", "test"]])
def test_folders_of_splits(tmp_path, others):
    for split in ["train", *others]:
        write(tmp_path / split, pos__1=f"good {split}", neg__1="bad", neg__2="bad again")
    documents = list(folder(str(tmp_path)).read())
    assert {document.split for document in documents} == {"train", *others}
    assert {(document.text, document.label) for document in documents if document.split == "train"} == {
        ("good train", "pos"),
        ("bad", "neg"),
        ("bad again", "neg"),
    }


def test_other_names_of_splits(tmp_path):
    for split in ("Training", "dev", "eval"):
        write(tmp_path / split, pos__1=split, neg__1="bad")
    documents = list(folder(str(tmp_path)).read())
    assert {(document.text, document.split) for document in documents if document.label == "pos"} == {
        ("Training", "train"),
        ("dev", "val"),
        ("eval", "test"),
    }


def test_what_may_be_a_class_or_a_split_is_refused(tmp_path):
    with refused("holds train, plane", "rename train", "--data.path"):
        folder(write(tmp_path, train__1="choo", plane__1="whoosh"))


def test_hidden_folders_and_leftovers_are_no_documents(tmp_path):
    write(tmp_path, **{".git__objects__ab": b"\xff\xfe", ".ipynb_checkpoints__1": "x", "__MACOSX__a": b"\xff"})
    write(tmp_path, pets__1="cat", **{"pets__Thumbs.db": b"\xff", "pets__desktop.ini": "x", "food__1": "rice"})
    assert [document[:2] for document in folder(str(tmp_path)).read()] == [("rice", "food"), ("cat", "pets")]


def test_files_in_another_encoding_are_named(tmp_path):
    path = write(tmp_path, a="cat", b=b"caf\xe9 noir")
    with refused(str(tmp_path / "b"), "is not utf-8", "--data.encoding to the file's own"):
        list(folder(path).read())
    assert [document.text for document in folder(path, encoding="latin-1").read()] == ["cat", "café noir"]
    path = write(tmp_path / "wide", a="cat", b="dog".encode("utf-16"))
    assert [document.text for document in folder(path).read()] == ["cat", "dog"]
    with refused("paper.txt is a PDF file", "--data.path"):
        list(folder(write(tmp_path / "wide", paper=b"", **{"paper.txt": b"%PDF-1.7"}), encoding="latin-1").read())


def test_missing_and_empty_folders(tmp_path):
    with refused("nowhere is not a folder", "--data.path"):
        folder(str(tmp_path / "nowhere"))
    with refused("holds no text files: set --data.path"):
        folder(str(tmp_path))
    with refused("encoding 'utf-9'"):
        folder(write(tmp_path, a="cat"), encoding="utf-9")
