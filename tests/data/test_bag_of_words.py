"""Sparse counts from files, and what is refused."""

import numpy as np
import pytest
from refusal import refused
from scipy import sparse

from vqlab.data.bag_of_words import BagOfWords, read_counts

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


def test_files_without_a_sparse_matrix(tmp_path):
    np.savez(tmp_path / "dense.npz", x=np.zeros((4, 3)))
    np.save(tmp_path / "dense.npy", np.zeros((4, 3)))
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
    for name in ("dense.npz", "dense.npy", "torn.npz", "text.npz", "complex.npz"):
        with refused(name, "holds no sparse matrix", "scipy.sparse.save_npz"):
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
