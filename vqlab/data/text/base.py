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

from vqlab.data.datamodule import Batch, Split, SplitDataModule, Workers, as_it_is, check_fractions, draw_splits
from vqlab.errors import UserError
from vqlab.metrics.topics.cooccurrence import ReferenceCorpus
from vqlab.training.data_format import Format
from vqlab.validation import Count, NonNegativeInt

log = logging.getLogger(__name__)


class Tokens(NamedTuple):
    """Documents as words in their order: document n is ``ids[offsets[n] : offsets[n + 1]]``."""

    ids: np.ndarray  # (T,) int32, numbers of words
    offsets: np.ndarray  # (N + 1,) int64

    @classmethod
    def of(cls, documents: list[np.ndarray]) -> "Tokens":
        """Join N documents, each the numbers of its words."""
        return cls(np.concatenate([np.empty(0, np.int32), *documents]), np.cumsum([0, *map(len, documents)]))

    def counts(self, vocab_size: int) -> csr_matrix:
        """Return how often each word is in each document, (N, V) float32."""
        ones = np.ones(len(self.ids), np.float32)
        counts = csr_matrix((ones, self.ids, self.offsets), (len(self.offsets) - 1, vocab_size), copy=True)
        counts.sum_duplicates()
        return counts


class BagsOfWords(Split):
    """Documents in memory as a sparse matrix of counts; only a batch is dense.

    Args:
        counts: (N, V), how often each word is in each document.
        labels: (N,) integers, -1 for none. Default: no labels.
        tokens: The words in order, without those outside the vocabulary. Default: the order is not known.
        places: Positions of the documents in their source, (N,). Default: 0 to N - 1.

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
        self.index = torch.arange(counts.shape[0])  # what `index` of a batch holds

    def __len__(self) -> int:
        return self.counts.shape[0]

    def __getitems__(self, indices: list[int]) -> Batch:
        rows = torch.as_tensor(indices)
        bow = torch.from_numpy(self.counts[indices].toarray())
        return {"bow": bow, "label": self.labels[rows], "index": self.index[rows]}

    def without_empty(self) -> "BagsOfWords":
        """Return the documents that hold a word."""
        full = np.flatnonzero(np.diff(self.counts.indptr))
        tokens = self.tokens and Tokens(self.tokens.ids, self.tokens.offsets[[0, *(full + 1)]])
        return BagsOfWords(self.counts[full], self.labels[full], tokens, self.places[full])


@dataclass(frozen=True)
class Corpus:
    """All documents of a source."""

    splits: dict[str, BagsOfWords]  # train, val and, where there are some, test
    vocabulary: list[str]  # V words
    class_names: list[str]  # what the labels 0, 1, ... mean; empty without labels


class TextDataModule(SplitDataModule):
    """Documents as bags of words, in batches of ``bow``, ``label`` and ``index``.

    A source subclasses this and defines :meth:`load_corpus`, which is called once, when it is first needed.

    With ``weighting="tfidf"`` a document is a distribution over words, as in ATM and BAT:
    ``bow[v] = tf[v] * idf[v] / sum_u tf[u] * idf[u]`` with the document's counts ``tf`` and
    ``idf[v] = ln((1 + N) / df[v])``, where ``df[v]`` of the N training documents contain the word; the 1 keeps every
    weight above 0. Scikit-learn adds 1 to this idf; frequent words then weigh more, and topics are less coherent.

    Args:
        batch_size: Documents per batch and device.
        weighting: What the numbers of ``bow`` are: ``tfidf``, rows that sum to 1, or ``counts``.
        num_workers: Processes that load batches; 0 loads in the main process.
        seed: Seed of the split and of the order.

    Shape:
        batch["bow"] (B, V) float32; batch["label"] (B,) int64, -1 where there is none; batch["index"] (B,) int64, the
        position in the split. Documents without a word of the vocabulary are left out.

    Raises:
        UserError: If an argument is out of range, or a split is empty or too small for one batch.

    Example:
        >>> class Rhymes(TextDataModule):
        ...     def load_corpus(self):
        ...         documents = BagsOfWords(csr_matrix(np.eye(3, k=1)), np.array([0, 1, 1]))
        ...         return Corpus({"train": documents, "val": documents}, ["cat", "hat", "mat"], ["a", "b"])
        >>> next(iter(Rhymes(batch_size=2).train_dataloader()))["bow"].sum(1).tolist()
        [1.0, 1.0]
    """

    examples = "documents"
    modality = "text"
    _classes: list[str] | None = None  # of a checkpoint

    def __init__(
        self,
        batch_size: Count = 256,
        weighting: Literal["tfidf", "counts"] = "tfidf",
        num_workers: Workers = 0,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(batch_size, num_workers, seed)
        self.weighting = weighting

    @abstractmethod
    def load_corpus(self) -> Corpus:
        """Return all documents; those without words may be among them."""

    @cached_property
    def _corpus(self) -> Corpus:
        corpus = without_empty(self.load_corpus())
        return corpus if self._classes is None else with_classes(corpus, self._classes)

    def load_all(self) -> BagsOfWords:
        """Return all documents that hold a word of the vocabulary, with their place in the source as ``index``."""
        splits = self._corpus.splits.values()
        places, order = np.unique(np.concatenate([split.places for split in splits]), return_index=True)
        counts = vstack([split.counts for split in splits], "csr")[order]
        documents = BagsOfWords(counts, torch.cat([split.labels for split in splits])[order], places=places)
        documents.index = torch.from_numpy(places)
        return documents

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
        """Return the vocabulary's words of the training documents in order; None where the source has counts only."""
        return self._corpus.splits["train"].tokens

    @cached_property
    def reference(self) -> ReferenceCorpus:
        """The training documents as the reference of topic coherence; counts alone where the order is not known."""
        tokens = self.train_tokens()
        if tokens is None:
            return ReferenceCorpus.from_counts(self.train_counts())
        return ReferenceCorpus(tokens.ids, tokens.offsets, self.vocab_size)

    @cached_property
    def idf(self) -> Tensor:
        """Inverse document frequency of each word in the training documents, (V,) float32."""
        counts = self.train_counts()  # it stores no zeros
        frequency = np.bincount(counts.indices, minlength=counts.shape[1]).clip(min=1)
        return torch.from_numpy(np.log((1 + counts.shape[0]) / frequency)).float()

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


def without_empty(corpus: Corpus) -> Corpus:
    """Return the corpus without documents that have no words; log their number; UserError if a split has no others."""
    splits = {split: documents.without_empty() for split, documents in corpus.splits.items()}
    for split, documents in splits.items():
        if not len(documents):
            raise UserError(
                f"none of the {len(corpus.splits[split])} documents of {split} holds one of the "
                f"{len(corpus.vocabulary)} words of the vocabulary: give more documents, or another vocabulary"
            )
    empty = {split: len(documents) - len(splits[split]) for split, documents in corpus.splits.items()}
    if any(empty.values()):
        counted = ", ".join(f"{number:,} of {split}" for split, number in empty.items())
        log.warning(f"left out documents without a word of the vocabulary: {counted}")
    return Corpus(splits, corpus.vocabulary, corpus.class_names)


def with_classes(corpus: Corpus, names: list[str]) -> Corpus:
    """Return the corpus with labels that number ``names``; documents of other classes become unlabelled."""
    numbers = {name: number for number, name in enumerate(names)}
    unknown = [name for name in corpus.class_names if name not in numbers]
    if unknown and names:
        log.warning(f"classes that the checkpoint does not have become unlabelled: {', '.join(unknown)[:80]}")
    new = torch.tensor([*(numbers.get(name, -1) for name in corpus.class_names), -1])  # the last is that of label -1
    splits = {
        split: BagsOfWords(documents.counts, new[documents.labels], documents.tokens, documents.places)
        for split, documents in corpus.splits.items()
    }
    return Corpus(splits, corpus.vocabulary, list(names))


def split_documents(count: int, val_fraction: float, test_fraction: float, seed: int) -> dict[str, np.ndarray]:
    """Return the sorted positions of the documents of each split, drawn by ``seed``; UserError if there are too few."""
    check_fractions(val_fraction, test_fraction, "documents")
    drawn = draw_splits(count, val_fraction, test_fraction, seed, "document", ": give more")
    return {split: rows.numpy() for split, rows in drawn.items()}
