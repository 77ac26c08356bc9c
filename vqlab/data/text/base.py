"""What the text DataModules share: documents as counts of words, sparse until they are a batch.

Shapes: N documents of a split, V words of the vocabulary, T words of all texts in a row, B documents of a batch.
"""

import logging
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack
from torch import Tensor

from vqlab.data.datamodule import Batch, Split, SplitDataModule, as_it_is, check_fractions, draw_splits
from vqlab.errors import UserError
from vqlab.metrics.topics.cooccurrence import ReferenceCorpus
from vqlab.training.data_format import Format

log = logging.getLogger(__name__)


class Tokens(NamedTuple):
    """Documents as words in their order: document n is ``ids[offsets[n] : offsets[n + 1]]``.

    Args:
        ids: (T,) int32, numbers of words.
        offsets: (N + 1,) int64.
    """

    ids: np.ndarray
    offsets: np.ndarray


class BagsOfWords(Split):
    """Documents in memory as a sparse matrix of counts; only a batch is dense.

    Args:
        counts: (N, V), how often each word is in each document.
        labels: (N,) integers; without labels every label is -1.
        tokens: The words in order, if they are known; words that are not in the vocabulary are left out.
        places: Where the documents lie in their source, (N,); None is 0 to N - 1.

    Example:
        >>> data = BagsOfWords(csr_matrix([[2, 0, 1], [0, 3, 0]]))
        >>> batch = data.__getitems__([1, 0])
        >>> batch["bow"].tolist(), batch["label"].tolist(), batch["index"].tolist()
        ([[0.0, 3.0, 0.0], [2.0, 0.0, 1.0]], [-1, -1], [1, 0])
    """

    def __init__(
        self,
        counts: csr_matrix,
        labels: np.ndarray | Tensor | None = None,
        tokens: Tokens | None = None,
        places: np.ndarray | None = None,
    ) -> None:
        self.counts = counts.astype(np.float32, copy=False)
        self.labels = torch.full((counts.shape[0],), -1) if labels is None else torch.as_tensor(labels).long()
        self.tokens, self.places = tokens, np.arange(counts.shape[0]) if places is None else places

    def __len__(self) -> int:
        return self.counts.shape[0]

    def __getitems__(self, indices: list[int]) -> Batch:
        index = torch.as_tensor(indices)
        return {"bow": torch.from_numpy(self.counts[indices].toarray()), "label": self.labels[index], "index": index}


class AllDocuments(BagsOfWords):
    """The documents of all splits in the order of their source, which ``index`` counts.

    Args:
        splits: The splits.
    """

    def __init__(self, splits: list[BagsOfWords]) -> None:
        places = np.concatenate([split.places for split in splits])
        _, order = np.unique(places, return_index=True)
        counts, labels = (
            vstack([split.counts for split in splits], "csr"),
            torch.cat([split.labels for split in splits]),
        )
        super().__init__(counts[order], labels[order], None, places[order])

    def __getitems__(self, indices: list[int]) -> Batch:
        return super().__getitems__(indices) | {"index": torch.from_numpy(self.places[indices])}


@dataclass(frozen=True)
class Corpus:
    """What a source gives.

    Args:
        splits: Documents of ``train``, ``val`` and, where there are some, ``test``.
        vocabulary: V words.
        class_names: What the labels 0, 1, ... mean; empty without labels.
    """

    splits: dict[str, BagsOfWords]
    vocabulary: list[str]
    class_names: list[str]


class TextDataModule(SplitDataModule):
    """Documents as bags of words, in batches of ``bow``, ``label`` and ``index``.

    A source subclasses this and defines :meth:`load_corpus`. It is called once, when anything that the texts say is
    first asked for: the vocabulary, the number of classes, the training size.

    With ``weighting="tfidf"`` a document is a distribution over words, as ATM and BAT take it:
    ``bow[v] = tf[v] * idf[v] / sum_u tf[u] * idf[u]`` with the document's counts ``tf`` and
    ``idf[v] = ln((1 + N) / df[v])``, where ``df[v]`` of the N training documents hold the word; the 1 lets no word
    weigh 0. Scikit-learn's adds 1 to this, so that frequent words weigh more: topics of them are less coherent.

    Args:
        batch_size: Documents per batch and device.
        weighting: What the numbers of ``bow`` are: ``tfidf``, rows that sum to 1, or ``counts``.
        num_workers: Processes that load batches; 0 loads in the main process.
        seed: Seed of the split and of the order.

    Shape:
        batch["bow"] (B, V) float32; batch["label"] (B,) int64, -1 where there is none; batch["index"] (B,) int64, the
        position in the split. No document is empty: those without a word of the vocabulary are left out.

    Raises:
        UserError: If an argument is out of range, or a split is empty or too small for one batch.

    Example:
        >>> class Rhymes(TextDataModule):
        ...     def load_corpus(self):
        ...         documents = BagsOfWords(csr_matrix(np.eye(3, k=1)), np.array([0, 1, 1]))
        ...         return Corpus({"train": documents, "val": documents}, ["cat", "hat", "mat"], ["a", "b"])
        >>> data = Rhymes(batch_size=2)
        >>> data.vocab_size, data.vocabulary, data.num_classes, data.train_size
        (3, ['cat', 'hat', 'mat'], 2, 2)
        >>> data.train_counts().toarray().tolist()
        [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
        >>> next(iter(data.train_dataloader()))["bow"].sum(1).tolist()
        [1.0, 1.0]
    """

    examples = "documents"
    modality = "text"
    _classes: list[str] | None = None  # of a checkpoint

    def __init__(
        self,
        batch_size: int = 256,
        weighting: Literal["tfidf", "counts"] = "tfidf",
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers, seed)
        if weighting not in ("tfidf", "counts"):
            raise UserError(f"weighting must be tfidf or counts, got {weighting!r}: set --data.weighting=tfidf")
        self.weighting = weighting

    @abstractmethod
    def load_corpus(self) -> Corpus:
        """Return all documents; those without words may be among them."""

    @cached_property
    def _corpus(self) -> Corpus:
        corpus = without_empty(self.load_corpus())
        return corpus if self._classes is None else with_classes(corpus, self._classes)

    def load_all(self) -> BagsOfWords:
        """Return all documents that hold a word of the vocabulary."""
        return AllDocuments(list(self._corpus.splits.values()))

    def describe(self) -> Format:
        """Return the weighting."""
        return {"weighting": self.weighting}

    def fitted(self) -> Format:
        """Return the vocabulary, what its words weigh, and the classes."""
        return {"vocabulary": self.vocabulary, "idf": self.idf.tolist(), "classes": self.class_names}

    def apply_format(self, trained: Format) -> None:
        """Weigh words and number classes as the checkpoint does."""
        super().apply_format(trained)
        self._classes = None if trained.get("classes") is None else [*map(str, trained["classes"])]
        for cached in ("_corpus", "_train_val", "_test", "reference", "idf"):
            self.__dict__.pop(cached, None)
        if idf := trained.get("idf"):
            if len(idf) != len(trained["vocabulary"]):
                raise ValueError(f"{len(idf)} weights of {len(trained['vocabulary'])} words")
            self.__dict__["idf"] = torch.tensor(idf, dtype=torch.float32)

    @property
    def vocabulary(self) -> list[str]:
        """The V words, in the order of the columns of ``bow``."""
        return self._corpus.vocabulary

    @property
    def vocab_size(self) -> int:
        """Number of words, V."""
        return len(self.vocabulary)

    @property
    def class_names(self) -> list[str]:
        """What the labels 0, 1, ... mean; empty without labels."""
        return self._corpus.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 without labels."""
        return len(self.class_names)

    @property
    def train_size(self) -> int:
        """Number of training documents."""
        return len(self._corpus.splits["train"])

    def train_counts(self) -> csr_matrix:
        """Return how often each word is in each training document, (N, V) float32."""
        return self._corpus.splits["train"].counts

    def val_counts(self) -> csr_matrix:
        """Return the same of the validation documents."""
        return self._corpus.splits["val"].counts

    def test_counts(self) -> csr_matrix | None:
        """Return the same of the test documents, or None where there are none."""
        return self._corpus.splits["test"].counts if "test" in self._corpus.splits else None

    def train_tokens(self) -> Tokens | None:
        """Return the words of the training documents in order, without those that are not in the vocabulary.

        None where the source knows counts alone.
        """
        return self._corpus.splits["train"].tokens

    @cached_property
    def reference(self) -> ReferenceCorpus:
        """The training texts, by which topics are judged; of counts alone where their order is not known."""
        tokens = self.train_tokens()
        if tokens is None:
            return ReferenceCorpus.from_counts(self.train_counts())
        return ReferenceCorpus(tokens.ids, tokens.offsets, self.vocab_size)

    @cached_property
    def idf(self) -> Tensor:
        """Inverse document frequency of each word in the training documents, (V,) float32."""
        counts = self.train_counts()
        return torch.from_numpy(np.log((1 + counts.shape[0]) / document_frequency(counts).clip(min=1))).float()

    def load_train_val(self) -> tuple[BagsOfWords, BagsOfWords]:
        """Return the training and the validation documents."""
        return self._corpus.splits["train"], self._corpus.splits["val"]

    def load_test(self) -> BagsOfWords | None:
        """Return the test documents, if there are any."""
        return self._corpus.splits.get("test")

    def collate(self) -> Callable[[Batch], Batch]:
        """Weigh the counts."""
        return as_it_is if self.weighting == "counts" else partial(to_tf_idf, idf=self.idf)


def to_tf_idf(batch: Batch, idf: Tensor) -> Batch:
    """Weigh the counts of a batch by ``idf``, and divide each row by its sum."""
    weighted = batch["bow"] * idf
    return batch | {"bow": weighted.div_(weighted.sum(1, keepdim=True))}


def document_frequency(counts: csr_matrix) -> np.ndarray:
    """Return in how many of the documents (N, V) each word is, (V,) int64; the matrix stores no zeros."""
    return np.bincount(counts.indices, minlength=counts.shape[1])


def without_empty(corpus: Corpus) -> Corpus:
    """Return the corpus without documents that have no words, and say in one line how many these are.

    Raises:
        UserError: If all documents of a split are empty.
    """
    splits, empty = {}, {}
    for split, documents in corpus.splits.items():
        full = np.flatnonzero(np.diff(documents.counts.indptr))
        if not len(full):
            raise UserError(
                f"none of the {len(documents)} documents of {split} holds one of the {len(corpus.vocabulary)} words of "
                "the vocabulary: give more documents, or set --data.vocabulary_path to words that fit"
            )
        empty[split] = len(documents) - len(full)
        splits[split] = take(documents, full) if empty[split] else documents
    if any(empty.values()):
        counted = ", ".join(f"{number:,} of {split}" for split, number in empty.items())
        log.warning(f"left out documents without a word of the vocabulary: {counted}")
    return Corpus(splits, corpus.vocabulary, corpus.class_names)


def with_classes(corpus: Corpus, names: list[str]) -> Corpus:
    """Return the corpus with labels that number ``names``; what has another class is taken for unlabelled."""
    numbers = {name: number for number, name in enumerate(names)}
    unknown = [name for name in corpus.class_names if name not in numbers]
    if unknown and names:
        log.warning(f"not among the classes of the checkpoint, and taken for unlabelled: {', '.join(unknown)[:80]}")
    new = torch.tensor([*(numbers.get(name, -1) for name in corpus.class_names), -1])  # the last is that of label -1
    splits = {
        split: BagsOfWords(documents.counts, new[documents.labels], documents.tokens, documents.places)
        for split, documents in corpus.splits.items()
    }
    return Corpus(splits, corpus.vocabulary, list(names))


def take(documents: BagsOfWords, full: np.ndarray) -> BagsOfWords:
    """Return the documents at ``full``, of which all others are empty."""
    tokens = documents.tokens
    if tokens is not None:
        tokens = Tokens(tokens.ids, tokens.offsets[[0, *(full + 1)]])
    return BagsOfWords(documents.counts[full], documents.labels[full], tokens, documents.places[full])


def split_documents(count: int, val_fraction: float, test_fraction: float, seed: int) -> dict[str, np.ndarray]:
    """Return the sorted positions of each split, at least one in each that has a share.

    Raises:
        UserError: If the shares leave no training documents, or there are too few.

    Example:
        >>> {split: len(rows) for split, rows in split_documents(20, 0.1, 0, seed=0).items()}
        {'train': 18, 'val': 2}
    """
    check_fractions(val_fraction, test_fraction, "documents")
    drawn = draw_splits(count, val_fraction, test_fraction, seed, "document", ": give --data.path more")
    return {split: rows.numpy() for split, rows in drawn.items()}
