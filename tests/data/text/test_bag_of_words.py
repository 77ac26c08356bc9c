"""Counts, labels and vocabularies from files."""

import bz2
import gzip
import io

import numpy as np
import pytest
from scipy import sparse
from scipy.io import mmwrite
from sklearn.datasets import dump_svmlight_file

from tests.helpers.refusal import refused
from vqlab.data.text.bag_of_words import BagOfWords, read_counts

RNG = np.random.default_rng(0)


def counts(documents=50, words=12):
    return sparse.csr_matrix(RNG.poisson(0.4, (documents, words)))


def save(path, matrix):
    sparse.save_npz(path, matrix)
    return str(path)


def bags(path, **options):
    return BagOfWords(path, **{"batch_size": 4, "weighting": "counts", **options})


def rows(data, split):
    return [row.tolist() for row in data.load_split(split).counts.toarray()]


@pytest.mark.parametrize(
    ("form", "dtype"), [("csr_matrix", np.int64), ("csc_array", np.float64), ("coo_matrix", np.uint8)]
)
def test_each_document_with_words_is_in_one_split(tmp_path, form, dtype, caplog):
    matrix = sparse.csr_matrix(counts().toarray() * (np.arange(50) != 7)[:, None])
    data = bags(save(tmp_path / "a.npz", getattr(sparse, form)(matrix.astype(dtype))))
    together = [row for split in ("train", "val", "test") for row in rows(data, split)]
    assert sorted(together) == sorted(row for row in matrix.toarray().tolist() if any(row))
    assert "left out documents" in caplog.text
    assert data.vocabulary[3] == "word 3"
    assert data.num_classes == 0
    assert not data.reference.has_order


def test_labels_vocabulary_and_test_file(tmp_path):
    matrix = sparse.csr_matrix(counts().toarray() + np.eye(1, 12, dtype=int))  # each document has the first word
    labels = RNG.integers(-1, 4, 50)
    labels[0] = 3
    np.savetxt(tmp_path / "labels.txt", labels)
    (tmp_path / "words.txt").write_text("\n".join(f"w{n}" for n in range(12)))
    test = sparse.csr_matrix(1 + counts(9).toarray())
    np.save(tmp_path / "test.npy", np.arange(9)[:, None] - 1)
    options = {"labels_path": "labels.txt", "vocabulary_path": "words.txt", "test_labels_path": "test.npy"}
    data = bags(save(tmp_path / "a.npz", matrix), test_path=save(tmp_path / "test.npz", test), **options)
    assert (data.train_size, len(data.load_split("val"))) == (45, 5)
    assert rows(data, "test") == test.toarray().tolist()
    assert data.load_split("test").labels.tolist() == list(range(-1, 8))
    assert data.class_names == [str(n) for n in range(8)]
    assert data.vocabulary[-1] == "w11"
    pairs = {(tuple(row), int(label)) for row, label in zip(matrix.toarray(), labels, strict=True)}
    train = data.load_split("train")
    assert {(tuple(r), int(n)) for r, n in zip(train.counts.toarray(), train.labels, strict=True)} <= pairs


def test_duplicate_entries_are_added_and_zeros_removed(tmp_path):
    matrix = sparse.coo_matrix(([1, 2, 0], ([0, 0, 1], [1, 1, 0])), (2, 2))
    read, _ = read_counts(save(tmp_path / "a.npz", matrix), "path")
    assert read.toarray().tolist() == [[0, 3], [0, 0]]
    assert read.nnz == 1


def docword(matrix):
    entries = sparse.coo_matrix(matrix)
    lines = [f"{d + 1} {w + 1} {n}" for d, w, n in zip(entries.row, entries.col, entries.data, strict=True)]
    return "\n".join(map(str, [*matrix.shape, entries.nnz, *lines, ""])).encode()


def written(write, *matrix, **arrays):
    file = io.BytesIO()
    write(file, *matrix, **arrays)
    return file.getvalue()


def test_all_formats_give_the_same_counts(tmp_path):
    matrix = counts()
    dense = matrix.toarray()
    files = {"a": docword(matrix), "b.npy": written(np.save, dense), "c.npz": written(np.savez, x=dense)}
    files |= {"a.txt.gz": gzip.compress(docword(matrix)), "b.mtx": written(mmwrite, matrix)}
    files |= {"a.svm.bz2": bz2.compress(svmlight(matrix, np.zeros(50)))}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert np.array_equal(read_counts(str(tmp_path / name), "path", 12)[0].toarray(), dense), name


def svmlight(matrix, labels):
    file = io.BytesIO()
    dump_svmlight_file(matrix, labels, file, zero_based=False)
    return file.getvalue()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([0, 3, -1, 1], [0, 3, -1, 1]), ([1, -1, -1, 1], [1, 0, 0, 1]), ([3, 4, 3, 4], [3, 4, 3, 4])],
)
def test_svmlight_has_labels_and_needs_no_number_of_words(tmp_path, labels, expected):
    matrix = sparse.csr_matrix([[1, 2, 0, 0], [0, 1, 0, 0], [3, 0, 1, 0], [1, 0, 0, 0]])
    (tmp_path / "train.svm").write_bytes(svmlight(matrix, np.array(labels)))
    (tmp_path / "test.svm").write_bytes(svmlight(matrix[:2], np.array(labels[:2])))
    data = bags("train.svm", test_path="test.svm", val_fraction=0.25)
    assert data.vocab_size == 3
    pairs = [
        (row, n) for split in ("train", "val") for row, n in zip(rows(data, split), labels_of(data, split), strict=True)
    ]
    assert sorted(pairs) == sorted(zip(matrix.toarray()[:, :3].tolist(), expected, strict=True))
    assert (rows(data, "test"), labels_of(data, "test")) == (matrix.toarray()[:2, :3].tolist(), expected[:2])
    (tmp_path / "words.txt").write_text("a\nb\nc\nd\n")
    np.save(tmp_path / "labels.npy", [0, 1, 0, 1])
    assert bags("train.svm", vocabulary_path="words.txt").vocab_size == 4
    assert bags("train.svm", labels_path="labels.npy").class_names == ["0", "1"]


def labels_of(data, split):
    return data.load_split(split).labels.tolist()


def test_fractions_in_svmlight_are_no_labels(tmp_path):
    (tmp_path / "a.svm").write_bytes(svmlight(counts(), np.full(50, 0.5)))
    with refused("the SVMlight file has no labels (fractions or negative numbers): set labels_path=FILE"):
        bags("a.svm").vocab_size  # noqa: B018


def out_of_range(matrix):
    matrix.indices[5] = 99  # out of range
    return {name: getattr(matrix, name) for name in ("shape", "data", "indices", "indptr")} | {"format": b"csr"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (written(np.savez, **out_of_range(counts())), "indices must be < 12"),
        (written(sparse.save_npz, sparse.csr_matrix((0, 3))), "shape (0, 3)"),
        (written(np.save, np.zeros(12)), "shape (12,)"),
        (written(np.save, np.full((2, 3), -1)), "negative or infinite values, or NaN"),
        (written(np.save, np.full((2, 3), np.nan)), "negative or infinite values, or NaN"),
        (written(mmwrite, counts())[:-9], ""),
        (docword(counts()) + b"99 99 1\n", ""),
        (b"hello", ""),
    ],
)
def test_files_without_counts_are_refused(tmp_path, content, reason):
    (tmp_path / "a.npz").write_bytes(content)
    with refused("a.npz is not a matrix of documents x words", "scipy.sparse.save_npz", reason):
        bags(str(tmp_path / "a.npz")).vocab_size  # noqa: B018


SIZES = "must fit the counts of 50 documents x 12 words, but has"


@pytest.mark.parametrize(
    ("setting", "content", "line"),
    [
        ("labels_path", np.zeros(49, int), f"labels_path {SIZES} 49 rows"),
        ("labels_path", np.full(50, -2), "set labels_path=FILE to class numbers from 0"),
        ("labels_path", np.full(50, 0.5), "set labels_path=FILE to class numbers from 0"),
        ("labels_path", "sports", "a has no labels"),
        ("vocabulary_path", "cat\ndog", f"vocabulary_path {SIZES} 2 words"),
        ("test_path", np.eye(9), f"test_path {SIZES} 9 words"),
        ("test_labels_path", np.zeros(50), "test_labels_path needs the counts of the test documents"),
        ("test_path", None, "No such file or directory"),
    ],
)
def test_inconsistent_files_are_refused(tmp_path, setting, content, line):
    if isinstance(content, str):
        (tmp_path / "a").write_text(content)
    elif content is not None:
        (tmp_path / "a").write_bytes(written(np.save, content))
    with refused(line):
        bags(save(tmp_path / "a.npz", counts()), **{setting: str(tmp_path / "a")}).num_classes  # noqa: B018
