"""Documents from folders of text files."""

import gzip
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


def documents(path, **options):
    return list(TextFolder(str(path), **options).read())


def test_files_at_any_depth_with_the_first_folder_as_label(tmp_path):
    files = {"pets__a__1": "the cat", "pets__2": "the dog", "food__1": "the rice", "loose": "the hen", "pets__a__3": ""}
    path = write(tmp_path, **files, **{".hidden": "x", ".git__objects__ab": b"\xff\xfe", "__MACOSX__a": b"\xff"})
    labels = ["food", None, "pets", "pets", "pets"]
    texts = ["the rice", "the hen", "the dog", "the cat", ""]
    assert documents(path) == [(text, label, None) for text, label in zip(texts, labels, strict=True)]


@pytest.mark.parametrize(
    "names", [{"train": "train", "test": "test"}, {"Training": "train", "dev": "val", "eval": "test"}]
)
def test_folders_of_splits(tmp_path, names):
    for name in names:
        write(tmp_path / name, pos__1=name, neg__1="bad", neg__2="bad again")
    found = documents(tmp_path)
    assert {(d.text, d.split) for d in found if d.label == "pos"} == set(names.items())
    assert {d.text for d in found if d.label == "neg" and d.split == "train"} == {"bad", "bad again"}


def test_encodings_and_compression(tmp_path):
    path = write(tmp_path, **{"a": "cat", "b": b"caf\xe9 noir", "c.gz": gzip.compress(b"dog")})
    with refused(f"{tmp_path / 'b'} cannot be read ('utf-8' codec", "set encoding="):
        documents(path)
    assert [document.text for document in documents(path, encoding="latin-1")] == ["cat", "café noir", "dog"]


def test_folders_that_are_refused(tmp_path):
    with refused("nowhere is not a folder"):
        documents(tmp_path / "nowhere")
    with refused("holds no text files"):
        documents(tmp_path)
    with refused("holds train, plane", "rename train"):
        documents(write(tmp_path, train__1="choo", plane__1="whoosh"))
