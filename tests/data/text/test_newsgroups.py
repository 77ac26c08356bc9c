"""20 Newsgroups: scikit-learn's cache, and failed downloads. Nothing is downloaded."""

import pickle
import urllib.error
import zlib

import numpy as np
import pytest
import sklearn.datasets._base
from sklearn.utils import Bunch

from tests.helpers.refusal import refused
from vqlab.data.text.newsgroups import CACHE, Newsgroups

POST = (
    "From: a@b.c\nSubject: orbits\n\nIn article <1> x wrote:\n> quoted words\nThe {} shuttle flies.\n\n--\nSignature\n"
)


def posts(count):
    names = ["rec.autos", "sci.space"]
    return Bunch(
        data=[POST.format(f"{names[n % 2][4:]} number{'abc'[n % 3]}") for n in range(count)],
        target=np.arange(count) % 2,
        target_names=names,
        filenames=np.arange(count).astype(str),
    )


@pytest.fixture
def offline(monkeypatch):
    def refuse(url, *args):
        raise urllib.error.URLError("no route\nto host")

    monkeypatch.setattr(sklearn.datasets._base, "urlretrieve", refuse)


def newsgroups(path, **options):
    return Newsgroups(str(path), **{"min_df": 1, "max_df": 1.0, "batch_size": 2, **options})


def test_cache_of_scikit_learn_is_read_without_network(tmp_path, offline):
    content = {split: posts(count) for split, count in (("train", 20), ("test", 6))}
    (tmp_path / CACHE).write_bytes(zlib.compress(pickle.dumps(content)))
    data = newsgroups(tmp_path)
    assert [len(data.load_split(split)) for split in ("train", "val", "test")] == [18, 2, 6]
    assert data.class_names == ["rec.autos", "sci.space"]
    assert set(data.vocabulary) == {"autos", "space", "numbera", "numberb", "numberc", "shuttle", "flies"}
    assert {"subject", "signature", "quoted"} <= set(newsgroups(tmp_path, remove=()).vocabulary)
    assert "subject" not in newsgroups(tmp_path, remove=["headers"]).vocabulary


def test_failed_download_is_one_line_and_leaves_no_files(tmp_path, offline):
    with refused("could not be downloaded", "--data Docstrings", "TextFile"):
        newsgroups(tmp_path / "new").prepare_data()
    assert list((tmp_path / "new").iterdir()) == []


def test_missing_or_damaged_cache_and_unknown_parts_are_refused(tmp_path, offline, capsys):
    with refused(f"{tmp_path / CACHE} is missing or damaged", "download=true", "--data Docstrings"):
        newsgroups(tmp_path, download=False).vocab_size  # noqa: B018
    (tmp_path / CACHE).write_bytes(b"cut")
    with refused("remove this file"):
        newsgroups(tmp_path).vocab_size  # noqa: B018
    assert capsys.readouterr().out == ""
    with refused("remove must be", "'header'"):
        Newsgroups(remove=["header"])
