"""Networks of adversarial topic models: generators of documents, encoder and critic.

Shapes: B documents, V words (``vocab_size``), K topics (``num_topics``), H hidden features. Documents are a tensor
(B, V), or a sparse or factorized one that supports only ``documents @ weight`` with a weight (V, H).
"""

import copy
import math
from abc import ABC, abstractmethod
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as normalise

from vqlab.nn.precision import upcast


class Documents(Protocol):
    """B distributions over V words, such as a tensor (B, V)."""

    def __matmul__(self, weight: Tensor, /) -> Tensor: ...  # (V, H) to (B, H)


class Bags:
    """Sparse documents: the rows of ``bow`` (B, V), none of them empty, divided by their sums."""

    def __init__(self, bow: Tensor) -> None:
        rows, self.words = bow.nonzero(as_tuple=True)
        counts = rows.bincount(minlength=len(bow))
        self.starts = counts.cumsum(0) - counts
        bow = upcast(bow)
        self.fractions = bow[rows, self.words] / bow.sum(1)[rows]

    def without_some(self, probability: float) -> "Bags":
        """Return the documents with each word left out at random; the rows no longer sum to 1."""
        kept = copy.copy(self)
        kept.fractions = self.fractions * (torch.rand_like(self.fractions) >= probability)
        return kept

    def __matmul__(self, weight: Tensor) -> Tensor:
        full = upcast(weight)
        fractions = self.fractions.to(full.dtype)
        return F.embedding_bag(self.words, full, self.starts, mode="sum", per_sample_weights=fractions).to(weight.dtype)


class Mixtures:
    """Factorized documents: ``theta`` (B, K) times ``topics`` (K, V), whose rows sum to 1."""

    def __init__(self, theta: Tensor, topics: Tensor) -> None:
        self.theta, self.topics = theta, topics

    def __matmul__(self, weight: Tensor) -> Tensor:
        return self.theta @ (self.topics @ weight)


def dense(documents: Mixtures | Tensor) -> Tensor:
    """Return documents as a tensor (B, V)."""
    return documents.theta @ documents.topics if isinstance(documents, Mixtures) else documents


SLOPE = 0.1  # of LeakyReLU, as in ATM and BAT


class TopicGenerator(nn.Module, ABC):
    """A network from topic proportions to distributions over words."""

    out_features: int  # size F of the representation of a document, for a contrastive loss

    @abstractmethod
    def log_topics(self) -> Tensor:
        """Return ln p(word | topic), (K, V)."""

    def generate(self, theta: Tensor) -> tuple[Mixtures | Tensor, Mixtures | Tensor]:
        """Return documents (B, V) and their representation (B, F), here the documents themselves."""
        documents = Mixtures(theta, self.log_topics().exp())
        return documents, documents

    def forward(self, theta: Tensor) -> Mixtures | Tensor:
        """(B, K) to documents (B, V)."""
        return self.generate(theta)[0]

    def cross_entropy(self, documents: Documents, theta: Tensor) -> Tensor:
        """Return -sum_k theta_k sum_v x_v log topic_kv in nats, (B,), of documents x (B, V) and ``theta`` (B, K)."""
        return -(theta * (documents @ self.log_topics().T)).sum(1)


class MixtureGenerator(TopicGenerator):
    """theta times topics, as in LDA; each topic is the softmax of its logits."""

    def __init__(self, num_topics: int, vocab_size: int) -> None:
        super().__init__()
        self.out_features = vocab_size
        self.logits = nn.Parameter(torch.randn(num_topics, vocab_size))

    def log_topics(self) -> Tensor:
        return self.logits.log_softmax(1)


class GaussianGenerator(TopicGenerator):
    """Topics as Gaussians in the space of the learned word embeddings: Gaussian-BAT (Wang et al. 2020)."""

    def __init__(self, num_topics: int, vocab_size: int, embedding_dim: int = 100) -> None:
        super().__init__()
        self.out_features = vocab_size
        self.words = nn.Parameter(torch.randn(vocab_size, embedding_dim))
        self.mean = nn.Parameter(torch.randn(num_topics, embedding_dim))
        self.log_std = nn.Parameter(torch.full((num_topics, embedding_dim), math.log(embedding_dim) / 2))

    def log_topics(self) -> Tensor:
        precision = (-2 * self.log_std).exp()  # (K, E)
        squares = precision @ self.words.square().T - 2 * (precision * self.mean) @ self.words.T
        return (-squares / 2).log_softmax(1)  # terms that do not depend on the word cancel


class MLPTopicGenerator(TopicGenerator):
    """Linear, batch norm, LeakyReLU, linear, softmax, as in ATM and BAT (Wang et al. 2019, arXiv:1811.00265; 2020)."""

    def __init__(self, num_topics: int, vocab_size: int, hidden_features: int = 100) -> None:
        super().__init__()
        self.num_topics, self.out_features = num_topics, hidden_features
        self.layers = nn.Sequential(
            nn.Linear(num_topics, hidden_features),
            nn.BatchNorm1d(hidden_features),
            nn.LeakyReLU(SLOPE),
            nn.Linear(hidden_features, vocab_size),
        )

    def log_topics(self) -> Tensor:
        training = self.training
        self.eval()  # batch norm uses its running statistics
        logits = self.layers(torch.eye(self.num_topics).to(next(self.parameters())))
        self.train(training)
        return logits.log_softmax(1)

    def generate(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.layers[:-1](theta)
        return self.layers[-1](hidden).softmax(1), hidden


GENERATORS = {"mixture": MixtureGenerator, "gaussian": GaussianGenerator, "mlp": MLPTopicGenerator}


class TopicEncoder(nn.Module):
    """Documents (B, V) to topic proportions (B, K): linear, batch norm, LeakyReLU, dropout, linear, softmax (BAT).

    In training, each word of a document is left out with the probability ``word_dropout``.
    """

    def __init__(
        self,
        vocab_size: int,
        num_topics: int,
        hidden_features: int = 100,
        dropout: float = 0.0,
        word_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout, self.word_dropout = dropout, word_dropout
        self.words = uniform_weight(vocab_size, hidden_features)
        self.norm = nn.BatchNorm1d(hidden_features)
        self.out = nn.Linear(hidden_features, num_topics)

    def forward(self, documents: Bags) -> Tensor:
        if self.training and self.word_dropout:
            documents = documents.without_some(self.word_dropout)
        hidden = F.leaky_relu(self.norm(documents @ self.words), SLOPE)
        return self.out(F.dropout(hidden, self.dropout, self.training)).softmax(1)


class TopicCritic(nn.Module):
    """Documents (B, V) and, if ``num_topics`` is not 0, topic proportions (B, K) to scores (B,).

    Linear, LeakyReLU, linear; without batch norm, whose statistics would reveal whether a batch is real.
    """

    def __init__(
        self, vocab_size: int, num_topics: int, hidden_features: int = 100, spectral_norm: bool = False
    ) -> None:
        super().__init__()
        self.words = uniform_weight(vocab_size, hidden_features)
        self.proportions = nn.Linear(num_topics, hidden_features) if num_topics else None
        self.out = nn.Linear(hidden_features, 1)
        if spectral_norm:
            normalise(self, "words")
            for layer in filter(None, (self.proportions, self.out)):
                normalise(layer)

    def forward(self, documents: Documents, theta: Tensor) -> Tensor:
        hidden = documents @ self.words
        if self.proportions is not None:
            hidden = hidden + self.proportions(theta)
        return self.out(F.leaky_relu(hidden, SLOPE))[:, 0]


def draw_proportions(num: int, num_topics: int, alpha: float, generator: torch.Generator | None = None) -> Tensor:
    """Draw topic proportions (num, K) from a symmetric Dirichlet of concentration ``alpha``; rows sum to 1."""
    concentration = torch.full((num, num_topics), alpha, dtype=torch.float64)  # float32 underflows at small alpha
    return torch._sample_dirichlet(concentration, generator).float()


def uniform_weight(inputs: int, outputs: int) -> nn.Parameter:
    """Return a weight (inputs, outputs), initialised as in ``nn.Linear``."""
    return nn.Parameter(torch.empty(inputs, outputs).uniform_(-(inputs**-0.5), inputs**-0.5))
