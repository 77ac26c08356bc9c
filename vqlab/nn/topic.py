"""Networks of adversarial topic models: generators of documents, their encoder, their critic, and what they read.

Shapes: B documents, V words (``vocab_size``), K topics (``num_topics``), H hidden features. Documents are tensors
(B, V), or anything else that has a product with a weight (V, H): a document has few words and a mixture has few topics,
so neither needs a dense (B, V) for it.
"""

import math
from abc import ABC, abstractmethod
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as normalise

from vqlab.nn.precision import upcast


class Documents(Protocol):
    """B distributions over V words; a tensor (B, V) is one too."""

    def __matmul__(self, weight: Tensor, /) -> Tensor: ...  # with a weight (V, H): (B, H)


class Bags:
    """Documents by their words, from dense ``bow`` (B, V) without rows of zeros: rows are divided by their sums."""

    def __init__(self, bow: Tensor) -> None:
        rows, self.words = bow.nonzero(as_tuple=True)
        counts = rows.bincount(minlength=len(bow))
        self.starts = counts.cumsum(0) - counts
        bow = upcast(bow)
        self.fractions = bow[rows, self.words] / bow.sum(1)[rows]

    def __matmul__(self, weight: Tensor) -> Tensor:
        full = upcast(weight)
        fractions = self.fractions.to(full.dtype)
        sums = F.embedding_bag(self.words, full, self.starts, mode="sum", per_sample_weights=fractions)
        return sums.to(weight.dtype)


class Mixtures:
    """Documents that mix topics, kept as ``theta`` (B, K) and ``topics`` (K, V), whose rows sum to 1."""

    def __init__(self, theta: Tensor, topics: Tensor) -> None:
        self.theta, self.topics = theta, topics

    def __matmul__(self, weight: Tensor) -> Tensor:
        return self.theta @ (self.topics @ weight)


def dense(documents: Mixtures | Tensor) -> Tensor:
    """Return documents as distributions over words, (B, V)."""
    return documents.theta @ documents.topics if isinstance(documents, Mixtures) else documents


SLOPE = 0.1  # of LeakyReLU, as in ATM and BAT


class TopicGenerator(nn.Module, ABC):
    """A network from topic proportions to distributions over words."""

    trait_features: int  # size of the representation of a document, for a contrastive loss

    @abstractmethod
    def log_topics(self) -> Tensor:
        """Return ln p(word | topic), (K, V)."""

    def generate(self, theta: Tensor) -> tuple[Mixtures | Tensor, Mixtures | Tensor]:
        """Return documents (B, V), and their representation (B, trait_features): here themselves."""
        documents = Mixtures(theta, self.log_topics().exp())
        return documents, documents

    def forward(self, theta: Tensor) -> Mixtures | Tensor:
        """(B, K) to documents (B, V)."""
        return self.generate(theta)[0]

    def unlikeliness(self, documents: Documents, theta: Tensor) -> Tensor:
        """Return -sum_k theta_k sum_v x_v log topic_kv in nats, (B,), of documents x (B, V) with ``theta`` (B, K)."""
        return -(theta * (documents @ self.log_topics().T)).sum(1)


class MixtureGenerator(TopicGenerator):
    """theta times topics, as in LDA: each topic is a softmax of its own logits."""

    def __init__(self, num_topics: int, vocab_size: int) -> None:
        super().__init__()
        self.trait_features = vocab_size
        self.logits = nn.Parameter(torch.randn(num_topics, vocab_size))

    def log_topics(self) -> Tensor:
        return self.logits.log_softmax(1)


class GaussianGenerator(TopicGenerator):
    """Topics that are Gaussians in the space of word embeddings: Gaussian-BAT (Wang et al. 2020, section 3.2).

    Words with similar embeddings belong to the same topics. The paper's embeddings are pretrained on other text and
    fixed; these are trained with the rest.
    """

    def __init__(self, num_topics: int, vocab_size: int, embedding_dim: int = 100) -> None:
        super().__init__()
        self.trait_features = vocab_size
        self.words = nn.Parameter(torch.randn(vocab_size, embedding_dim))
        self.mean = nn.Parameter(torch.randn(num_topics, embedding_dim))
        self.log_std = nn.Parameter(torch.full((num_topics, embedding_dim), math.log(embedding_dim) / 2))

    def log_topics(self) -> Tensor:
        """Return the log-densities of the words, normalised to sum to 1 in each topic, (K, V)."""
        precision = (-2 * self.log_std).exp()  # (K, E)
        squares = precision @ self.words.square().T - 2 * (precision * self.mean) @ self.words.T
        return (-squares / 2).log_softmax(1)  # terms without the word cancel in the softmax


class MLPTopicGenerator(TopicGenerator):
    """Linear, batch norm, LeakyReLU, linear, softmax: ATM's and BAT's (Wang et al. 2019, arXiv:1811.00265; 2020)."""

    def __init__(self, num_topics: int, vocab_size: int, hidden_features: int = 100) -> None:
        super().__init__()
        self.num_topics, self.trait_features = num_topics, hidden_features
        self.layers = nn.Sequential(
            nn.Linear(num_topics, hidden_features),
            nn.BatchNorm1d(hidden_features),
            nn.LeakyReLU(SLOPE),
            nn.Linear(hidden_features, vocab_size),
        )

    def log_topics(self) -> Tensor:
        """Return ln p(word | topic), (K, V), with batch norm's running statistics."""
        training = self.training
        self.eval()
        logits = self.layers(torch.eye(self.num_topics).to(next(self.parameters())))
        self.train(training)
        return logits.log_softmax(1)

    def generate(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return documents (B, V), and the hidden layer (B, H) as their representation."""
        hidden = self.layers[:-1](theta)
        return self.layers[-1](hidden).softmax(1), hidden


GENERATORS = {"mixture": MixtureGenerator, "gaussian": GaussianGenerator, "mlp": MLPTopicGenerator}


class TopicEncoder(nn.Module):
    """Documents (B, V) to topic proportions (B, K): linear, batch norm, LeakyReLU, linear, softmax (BAT)."""

    def __init__(self, vocab_size: int, num_topics: int, hidden_features: int = 100) -> None:
        super().__init__()
        self.words = uniform(vocab_size, hidden_features)
        self.norm = nn.BatchNorm1d(hidden_features)
        self.out = nn.Linear(hidden_features, num_topics)

    def forward(self, documents: Documents) -> Tensor:
        return self.out(F.leaky_relu(self.norm(documents @ self.words), SLOPE)).softmax(1)


class TopicCritic(nn.Module):
    """Documents (B, V), with topic proportions (B, K) or without, to scores (B,): linear, LeakyReLU, linear.

    Without batch norm, which would reveal by its statistics whether a batch is real or generated. ``num_topics`` is 0
    for documents alone, as in ATM; ``spectral_norm`` divides each weight by its largest singular value.
    """

    def __init__(
        self, vocab_size: int, num_topics: int, hidden_features: int = 100, spectral_norm: bool = False
    ) -> None:
        super().__init__()
        self.words = uniform(vocab_size, hidden_features)
        self.proportions = nn.Linear(num_topics, hidden_features) if num_topics else None
        self.out = nn.Linear(hidden_features, 1)
        if spectral_norm:
            normalise(self, "words")
            for layer in (self.proportions, self.out):
                if layer is not None:
                    normalise(layer)

    def forward(self, documents: Documents, theta: Tensor) -> Tensor:
        hidden = documents @ self.words
        if self.proportions is not None:
            hidden = hidden + self.proportions(theta)
        return self.out(F.leaky_relu(hidden, SLOPE))[:, 0]


def draw_proportions(num: int, num_topics: int, alpha: float, generator: torch.Generator | None = None) -> Tensor:
    """Draw topic proportions (num, K) from a symmetric Dirichlet of concentration ``alpha``; rows sum to 1."""
    concentration = torch.full((num, num_topics), alpha, dtype=torch.float64)  # small ones underflow in float32
    return torch._sample_dirichlet(concentration, generator).float()


def uniform(inputs: int, outputs: int) -> nn.Parameter:
    """Return a weight (inputs, outputs), initialised as in ``nn.Linear``."""
    bound = inputs**-0.5
    return nn.Parameter(torch.empty(inputs, outputs).uniform_(-bound, bound))
