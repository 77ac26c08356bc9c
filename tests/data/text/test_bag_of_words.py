"""Counts from files, and what is refused."""

import gzip
import io

import numpy as np
import pytest
from scipy import sparse
from scipy.io import mmwrite

from tests.helpers.refusal import refused
from vqlab.data.text.bag_of_words import BagOfWords, read_counts, read_labels

RNG = np.random.default_rng(0)


def counts(documents=50, words=12):
    return sparse.csr_matrix(RNG.poisson(0.4, (documents, words)))


def save(path, matrix):
    sparse.save_npz(path, matrix)
    return str(path)


def bags(path, **options):
    return BagOfWords(path, **{"batch_size": 4, "weighting": "counts", **options})


def rows(data, split):
    return [row.tolist() for row in data._corpus.splits[split].counts.toarray()]


@pytest.mark.parametrize("form", ["csr_matrix", "csc_array", "coo_matrix"])
@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.uint8])
def test_every_document_with_words_is_in_one_split(tmp_path, form, dtype, caplog):
    matrix = sparse.csr_matrix(counts().toarray() * (np.arange(50) != 7)[:, None])
    data = bags(save(tmp_path / "a.npz", getattr(sparse, form)(matrix.astype(dtype))))
    together = [row for split in ("train", "val", "test") for row in rows(data, split)]
    assert sorted(together) == sorted(row for row in matrix.toarray().tolist() if any(row))
    assert "left out documents" in caplog.text
    assert data.vocabulary[3] == "word 3"
    assert data.num_classes == 0
    assert data.train_tokens() is None


def test_labels_vocabulary_and_test_file(tmp_path):
    matrix = sparse.csr_matrix(counts().toarray() + np.eye(1, 12, dtype=int))  # each document has the first word
    labels = RNG.integers(-1, 4, 50)
    labels[0] = 3
    np.save(tmp_path / "labels.npy", labels)
    (tmp_path / "words.txt").write_text("\n".join(f"w{n}" for n in range(12)))
    test = sparse.csr_matrix(1 + counts(9).toarray())
    np.save(tmp_path / "test.npy", np.arange(9) - 1)
    data = bags(
        save(tmp_path / "a.npz", matrix),
        labels_path=str(tmp_path / "labels.npy"),
        vocabulary_path=str(tmp_path / "words.txt"),
        test_path=save(tmp_path / "test.npz", test),
        test_labels_path=str(tmp_path / "test.npy"),
    )
    assert (data.train_size, data.val_counts().shape[0]) == (45, 5)
    assert rows(data, "test") == test.toarray().tolist()
    assert data._corpus.splits["test"].labels.tolist() == list(range(-1, 8))
    assert data.class_names == [str(n) for n in range(8)]
    assert data.vocabulary[-1] == "w11"
    pairs = {(tuple(row), int(label)) for row, label in zip(matrix.toarray(), labels, strict=True)}
    train = data._corpus.splits["train"]
    assert {(tuple(r), int(n)) for r, n in zip(train.counts.toarray(), train.labels, strict=True)} <= pairs


def test_duplicate_entries_are_added_and_zeros_are_no_words(tmp_path):
    matrix = sparse.coo_matrix(([1, 2, 0], ([0, 0, 1], [1, 1, 0])), (2, 2))
    read = read_counts(save(tmp_path / "a.npz", matrix), "path")
    assert read.toarray().tolist() == [[0, 3], [0, 0]]
    assert read.nnz == 1


@pytest.mark.parametrize(
    ("value", "words"),
    [(-1, ["1 values such as -1"]), (np.nan, ["such as nan"]), (np.inf, ["such as inf"])],
)
def test_values_that_are_no_counts(tmp_path, value, words):
    matrix = counts().astype(float)
    matrix.data[5] = value
    with refused("a.npz", "--data.path", *words):
        bags(save(tmp_path / "a.npz", matrix)).vocab_size  # noqa: B018


def docword(matrix):
    entries = sparse.coo_matrix(matrix)
    lines = [f"{d + 1} {w + 1} {n}" for d, w, n in zip(entries.row, entries.col, entries.data, strict=True)]
    return "\n".join(map(str, [*matrix.shape, entries.nnz, *lines, ""])).encode()


def market(matrix):
    file = io.BytesIO()
    mmwrite(file, matrix)
    return file.getvalue()


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize(("name", "write"), [("docword.txt", docword), ("corpus.mm", market), ("dense.mtx", market)])
def test_formats_of_others(tmp_path, name, write, compress):
    matrix = counts()
    (tmp_path / name).write_bytes(compress(write(matrix.toarray() if name == "dense.mtx" else matrix)))
    assert np.array_equal(read_counts(str(tmp_path / name), "path").toarray(), matrix.toarray())


def test_dense_arrays(tmp_path, caplog):
    matrix = counts().toarray()
    np.save(tmp_path / "a.npy", matrix)
    np.savez_compressed(tmp_path / "a.npz", counts=matrix)
    for name in ("a.npy", "a.npz"):
        assert np.array_equal(read_counts(str(tmp_path / name), "path").toarray(), matrix)
    np.savez(tmp_path / "both.npz", X=matrix, y=matrix[:, 0])
    with refused("both.npz holds several arrays, X, y", "--data.path", "--data.labels_path"):
        read_counts(str(tmp_path / "both.npz"), "path")
    np.save(tmp_path / "flat.npy", matrix[0])
    with refused("has the shape (12,)"):
        read_counts(str(tmp_path / "flat.npy"), "path")
    stored = counts()
    np.savez(
        tmp_path / "more.npz",
        format=b"csr",
        shape=stored.shape,
        data=stored.data,
        indices=stored.indices,
        indptr=stored.indptr,
        labels=np.zeros(50),
    )
    assert np.array_equal(read_counts(str(tmp_path / "more.npz"), "path").toarray(), stored.toarray())
    assert "holds labels, too" in caplog.text


def test_formats_that_are_named(tmp_path):
    (tmp_path / "a.svm").write_text("1 3:2 7:1\n0 1:1\n")
    with refused("SVMlight", "load_svmlight_file", "save_npz"):
        read_counts(str(tmp_path / "a.svm"), "path")
    np.save(tmp_path / "a.npy", np.array([[1, 2], [3]], object))
    with refused("lists of word numbers", "bincount"):
        read_counts(str(tmp_path / "a.npy"), "path")


def test_a_matrix_of_words_by_documents_is_named(tmp_path):
    path = save(tmp_path / "a.npz", counts(12, 50))
    (tmp_path / "words.txt").write_text("\n".join(f"w{n}" for n in range(12)))
    np.save(tmp_path / "labels.npy", np.zeros(50, int))
    for options in ({"vocabulary_path": str(tmp_path / "words.txt")}, {"labels_path": str(tmp_path / "labels.npy")}):
        with refused("rows of the counts are words", "matrix.T"):
            bags(path, **options).vocab_size  # noqa: B018


@pytest.mark.parametrize(("weighting", "warned"), [("tfidf", True), ("counts", False)])
def test_weights_are_not_weighted_again_without_a_word(tmp_path, caplog, weighting, warned):
    bags(save(tmp_path / "a.npz", counts() * 0.3), weighting=weighting).vocab_size  # noqa: B018
    assert ("such as 0.3, no counts" in caplog.text) == warned


def test_labels_of_a_text_file_or_a_column(tmp_path):
    labels = np.arange(50) % 3
    np.savetxt(tmp_path / "labels.txt", labels)
    np.save(tmp_path / "labels.npy", labels[:, None])
    for name in ("labels.txt", "labels.npy"):
        assert np.array_equal(read_labels(str(tmp_path / name), "labels_path", counts()), labels)
    (tmp_path / "labels.txt").write_text("sports\n" * 50)
    with refused("labels.txt is no array", "a number in each line"):
        read_labels(str(tmp_path / "labels.txt"), "labels_path", counts())
    with refused("test_labels_path is given without test_path"):
        bags(save(tmp_path / "a.npz", counts()), test_labels_path=str(tmp_path / "labels.npy"))


def test_files_without_a_matrix(tmp_path):
    matrix = counts()
    matrix.indices[5] = 99  # no such column
    np.savez(
        tmp_path / "torn.npz",
        format=b"csr",
        shape=(50, 12),
        data=matrix.data,
        indices=matrix.indices,
        indptr=matrix.indptr,
    )
    (tmp_path / "text.npz").write_text("hello")
    save(tmp_path / "complex.npz", counts().astype(complex))
    (tmp_path / "torn.mtx").write_bytes(market(counts())[:-9])
    (tmp_path / "torn.txt").write_bytes(docword(counts()) + b"99 99 1\n")
    for name in ("torn.npz", "torn.mtx", "torn.txt", "text.npz", "complex.npz"):
        with refused(name, "holds no matrix of real numbers", "scipy.sparse.save_npz"):
            bags(str(tmp_path / name)).vocab_size  # noqa: B018
    with refused("has the shape (0, 3)"):
        bags(save(tmp_path / "none.npz", sparse.csr_matrix((0, 3)))).vocab_size  # noqa: B018
    with refused("nowhere.npz is not a file", "--data.path"):
        bags(str(tmp_path / "nowhere.npz"))


def test_sizes_that_do_not_fit(tmp_path):
    path = save(tmp_path / "a.npz", counts())
    np.save(tmp_path / "labels.npy", np.zeros(49, int))
    with refused("labels.npy", "(49,)", "50 documents"):
        bags(path, labels_path=str(tmp_path / "labels.npy")).num_classes  # noqa: B018
    for wrong in (np.full(50, -2), np.zeros(50)):
        np.save(tmp_path / "labels.npy", wrong)
        with refused("class numbers", "--data.labels_path"):
            bags(path, labels_path=str(tmp_path / "labels.npy")).num_classes  # noqa: B018
    (tmp_path / "labels.npy").write_text("0 1 2")
    with refused("labels.npy is no array"):
        bags(path, labels_path=str(tmp_path / "labels.npy")).num_classes  # noqa: B018
    (tmp_path / "words.txt").write_text("cat\ndog")
    with refused("counts 12 words", "there are 2", "--data.vocabulary_path"):
        bags(path, vocabulary_path=str(tmp_path / "words.txt")).vocab_size  # noqa: B018
    with refused("counts 9 words", "--data.test_path"):
        bags(path, test_path=save(tmp_path / "test.npz", counts(5, 9))).vocab_size  # noqa: B018
