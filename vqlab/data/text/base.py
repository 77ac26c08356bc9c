"""Base of the text DataModules: documents as word counts, kept sparse until they are a batch.

Shapes: N documents of a split, V words of the vocabulary, B documents of a batch.
"""

import logging
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack
from torch import Tensor

from vqlab.data.datamodule import Batch, Split, SplitDataModule, Workers, as_it_is, check_fractions, draw_splits
from vqlab.data.text.neighbours import WithNeighbours, nearest_documents
from vqlab.errors import UserError
from vqlab.metrics import ReferenceCorpus
from vqlab.training.data_format import Format
from vqlab.validation import Count, NonNegativeInt

log = logging.getLogger(__name__)


class BagsOfWords(Split):
    """Documents in memory as a sparse matrix of counts; only a batch is dense."""

    def __init__(
        self,
        counts: csr_matrix,  # (N, V), how often each word is in each document
        labels: np.ndarray | Tensor | None = None,  # (N,), -1 for none
        places: np.ndarray | None = None,  # (N,), position in the source
    ) -> None:
        self.counts = counts.astype(np.float32, copy=False)
        self.labels = torch.full((counts.shape[0],), -1) if labels is None else torch.as_tensor(labels).long()
        self.places = np.arange(counts.shape[0]) if places is None else places
        self.index = torch.arange(counts.shape[0])  # the ``index`` of a batch

    def __len__(self) -> int:
        return self.counts.shape[0]

    def __getitems__(self, indices: list[int]) -> Batch:
        rows = torch.as_tensor(indices)
        bow = torch.from_numpy(self.counts[indices].toarray())
        return {"bow": bow, "label": self.labels[rows], "index": self.index[rows]}


@dataclass(frozen=True)
class Corpus:
    """All documents of a source."""

    splits: dict[str, BagsOfWords]  # train, val and, if there is one, test
    vocabulary: list[str]  # V words
    class_names: list[str]  # names of the labels 0, 1, ...; empty without labels
    reference: ReferenceCorpus | None = None  # the training documents, if the order of their words is known


class TextDataModule(SplitDataModule):
    """Documents as bags of words, in batches of ``bow``, ``label`` and ``index``.

    A source subclasses this and defines :meth:`load_corpus`. With ``weighting="tfidf"`` a document is a distribution
    over words, as in ATM and BAT: ``bow[v] = tf[v] * idf[v] / sum_u tf[u] * idf[u]`` with the document's counts ``tf``
    and ``idf[v] = ln((1 + N) / df[v])``, where ``df[v]`` of the N training documents contain the word. With
    ``squared_idf`` the terms are ``(1 + ln tf[v]) * idf[v]**2``: the words that tell subjects apart weigh more.

    Args:
        batch_size: Documents per batch and device.
        weighting: Values of ``bow``: ``tfidf`` or ``squared_idf``, rows that sum to 1, or ``counts``.
        neighbours: Training batches have another document for each one, ``neighbour`` (B, V), drawn from this many
            with similar words: the nearest by the cosine of a latent semantic analysis of ``squared_idf``. 0: none.
        num_workers: Processes that load batches; 0 loads in the main process.
        seed: Seed of the split and of the order.

    Shape:
        batch["bow"] (B, V) float32; batch["label"] (B,) int64, -1 for none; batch["index"] (B,) int64, the position in
        the split. Documents without a word of the vocabulary are left out.
    """

    examples = "documents"
    modality = "text"
    _classes: list[str] | None = None  # of a checkpoint

    def __init__(
        self,
        batch_size: Count = 256,
        weighting: Literal["tfidf", "squared_idf", "counts"] = "tfidf",
        neighbours: NonNegativeInt = 0,
        num_workers: Workers = 0,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(batch_size, num_workers, seed)
        self.weighting, self.neighbours = weighting, neighbours

    @abstractmethod
    def load_corpus(self) -> Corpus:
        """Return all documents, including those without words."""

    @cached_property
    def _corpus(self) -> Corpus:
        corpus = without_empty(self.load_corpus())
        return corpus if self._classes is None else with_classes(corpus, self._classes)

    @cached_property
    def _train_val(self) -> tuple[Split, Split]:
        train, val = self.load_train_val()
        if not self.neighbours:
            return train, val
        if len(train) < 2:
            raise UserError(f"neighbours={self.neighbours} needs two training documents: set neighbours=0")
        near = nearest_documents(self.train_documents("squared_idf"), self.neighbours, self.seed)
        return WithNeighbours(train, near, self.seed), val

    def load_split(self, split: str) -> BagsOfWords | None:
        return self._corpus.splits.get(split)

    def load_all(self) -> BagsOfWords:
        splits = self._corpus.splits.values()
        places, order = np.unique(np.concatenate([split.places for split in splits]), return_index=True)
        counts = vstack([split.counts for split in splits], "csr")[order]
        documents = BagsOfWords(counts, torch.cat([split.labels for split in splits])[order], places)
        documents.index = torch.from_numpy(places)
        return documents

    def describe(self) -> Format:
        return {"weighting": self.weighting}

    def fitted(self) -> Format:
        return {"vocabulary": self.vocabulary, "idf": self.idf.tolist(), "classes": self.class_names}

    def apply_format(self, trained: Format) -> None:
        super().apply_format(trained)
        self._classes = None if trained.get("classes") is None else [*map(str, trained["classes"])]
        for cached in ("_corpus", "_train_val", "_test", "reference", "idf"):
            self.__dict__.pop(cached, None)
        if idf := trained.get("idf"):
            if len(idf) != len(trained["vocabulary"]):
                raise ValueError(f"{len(idf)} idf values for {len(trained['vocabulary'])} words")
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
        """Names of the labels 0, 1, ...; empty without labels."""
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

    def train_documents(self, weighting: str | None = None) -> csr_matrix:
        """Return the training documents at unit length, (N, V) float64.

        They are weighted by ``weighting``, ``tfidf`` or ``squared_idf``, by default the data's, ``tfidf`` for counts.
        """
        documents = self.train_counts().astype(np.float64)
        values, idf = torch.from_numpy(documents.data), self.idf.double()[documents.indices]
        documents.data = weighted(values, idf, weighting or self.weighting).numpy()
        lengths = np.sqrt(documents.multiply(documents).sum(1)).A1
        documents.data /= np.repeat(lengths, np.diff(documents.indptr))
        return documents

    def test_counts(self) -> csr_matrix | None:
        """Return the counts of the test documents, None without a test split."""
        return self._corpus.splits["test"].counts if "test" in self._corpus.splits else None

    @cached_property
    def reference(self) -> ReferenceCorpus:
        """The training documents as the reference of topic coherence, with the order of words if it is known."""
        return self._corpus.reference or ReferenceCorpus.from_counts(self.train_counts())

    @cached_property
    def idf(self) -> Tensor:
        """Inverse document frequency of each word in the training documents, (V,) float32."""
        counts = self.train_counts()  # without stored zeros
        frequency = np.bincount(counts.indices, minlength=counts.shape[1]).clip(min=1)
        return torch.from_numpy(np.log((1 + counts.shape[0]) / frequency)).float()

    def collate(self) -> Callable[[Batch], Batch]:
        return as_it_is if self.weighting == "counts" else partial(weigh, weighting=self.weighting, idf=self.idf)


def weigh(batch: Batch, weighting: str, idf: Tensor) -> Batch:
    """Replace the counts of a batch by weights whose rows sum to 1."""
    documents = {}
    for name in ("bow", "neighbour"):
        if name in batch:
            weights = weighted(batch[name], idf, weighting)
            documents[name] = weights.div_(weights.sum(1, keepdim=True))
    return batch | documents


def weighted(counts: Tensor, idf: Tensor, weighting: str) -> Tensor:
    """Return the weights of words with these ``counts``, 0 for 0; those of ``tfidf`` unless ``squared_idf``."""
    if weighting == "squared_idf":
        return counts.log().add_(1).clamp_(min=0).mul_(idf.square())
    return counts * idf


def without_empty(corpus: Corpus) -> Corpus:
    """Return the corpus without documents that contain no word; UserError if a split has no others."""
    splits, left_out = {}, {}
    for split, documents in corpus.splits.items():
        full = np.flatnonzero(np.diff(documents.counts.indptr))
        if not len(full):
            raise UserError(
                f"none of the {len(documents)} documents of {split} contains one of the {len(corpus.vocabulary)} words "
                "of the vocabulary: give more documents, or another vocabulary"
            )
        splits[split] = BagsOfWords(documents.counts[full], documents.labels[full], documents.places[full])
        left_out[split] = len(documents) - len(full)
    if any(left_out.values()):
        counts = ", ".join(f"{count:,} of {split}" for split, count in left_out.items())
        log.warning(f"left out documents without a word of the vocabulary: {counts}")
    return replace(corpus, splits=splits)


def with_classes(corpus: Corpus, names: list[str]) -> Corpus:
    """Return the corpus with labels that are positions in ``names``, -1 for other classes."""
    unknown = [name for name in corpus.class_names if name not in names]
    if unknown and names:
        log.warning(f"classes that the checkpoint does not have become unlabelled: {', '.join(unknown)[:80]}")
    numbers = {name: number for number, name in enumerate(names)}
    new = torch.tensor([*(numbers.get(name, -1) for name in corpus.class_names), -1])  # the last is for label -1
    parts = corpus.splits.items()
    splits = {split: BagsOfWords(its.counts, new[its.labels], its.places) for split, its in parts}
    return replace(corpus, splits=splits, class_names=list(names))


def split_documents(count: int, val_fraction: float, test_fraction: float, seed: int) -> dict[str, np.ndarray]:
    """Return the sorted positions of the documents of each split, drawn by ``seed``; UserError if there are too few."""
    check_fractions(val_fraction, test_fraction, "documents")
    drawn = draw_splits(count, val_fraction, test_fraction, seed, "document", ": give more")
    return {split: rows.numpy() for split, rows in drawn.items()}
