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
    files = {"pets__a__1": "the cat", "pets__2": "the dog", "food__1": "the rice", "loose": "the hen", "pets__a__3": ""}
    path = write(tmp_path, **files, **{".hidden": "x", ".git__objects__ab": b"\xff\xfe", "__MACOSX__a": b"\xff"})
    write(tmp_path, **{"pets__Thumbs.db": b"\xff", ".ipynb_checkpoints__1": "x", "pets__desktop.ini": "x"})
    assert list(folder(path).read()) == [
        ("the rice", "food", None),
        ("the hen", None, None),
        ("the dog", "pets", None),
        ("the cat", "pets", None),
        ("", "pets", None),
    ]
    data = folder(path, stop_words=None, val_fraction=0.5, test_fraction=0)
    assert data.class_names == ["food", "pets"]


@pytest.mark.parametrize(
    "names", [{"train": "train", "test": "test"}, {"Training": "train", "dev": "val", "eval": "test"}]
)
def test_folders_of_splits(tmp_path, names):
    for name in names:
        write(tmp_path / name, pos__1=name, neg__1="bad", neg__2="bad again")
    documents = list(folder(str(tmp_path)).read())
    assert {(d.text, d.split) for d in documents if d.label == "pos"} == set(names.items())
    assert {d.text for d in documents if d.label == "neg" and d.split == "train"} == {"bad", "bad again"}


def test_encodings(tmp_path):
    path = write(tmp_path, a="cat", b=b"caf\xe9 noir")
    with refused(f"{tmp_path / 'b'} is not utf-8 after line 0", "set encoding="):
        list(folder(path).read())
    assert [document.text for document in folder(path, encoding="latin-1").read()] == ["cat", "café noir"]
    path = write(tmp_path / "wide", a="cat", b="dog".encode("utf-16"))
    assert [document.text for document in folder(path).read()] == ["cat", "dog"]


def test_folders_that_are_refused(tmp_path):
    with refused("nowhere is not a folder"):
        folder(str(tmp_path / "nowhere"))
    with refused("holds no text files"):
        folder(str(tmp_path))
    with refused("holds train, plane", "rename train"):
        folder(write(tmp_path, train__1="choo", plane__1="whoosh"))
    with refused("encoding must be one that Python knows", "'utf-9'"):
        folder(write(tmp_path, plane__1="cat"), encoding="utf-9")
