"""What callbacks and the command line may ask of a model; a model has what applies to it, and nothing is mandatory.

The one-method protocols are tested with ``isinstance``. The attributes of :class:`Observed` have defaults, which also
hold for a LightningModule that lacks them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from vqlab.metrics.topics.table import TopicTable


class Observed(Protocol):
    """Attributes of a model that callbacks and the command line read.

    A model with codes also has ``quantizer``, a :class:`~vqlab.quantizers.base.Quantizer`, whose ``num_embeddings``
    ``Health`` compares the perplexity with, and whose codebooks ``vqlab predict`` exports.
    """

    modality: str  # data that the model is made for: ``image``, ``signal``, ``text`` or ``font``
    accumulate: int = 1  # batches per optimizer step of a model with manual optimization, for ``base_lr``
    optimizer_stepped: bool = True  # False while such a model accumulates: EMA and LastAndBest wait for a step
    num_classes: int = 0  # classes of the data, 0 if unknown
    health_hints: ClassVar[Mapping[str, str]] = {}  # health event -> hint, instead of the hint of the rule
    health_ignored: Collection[str] = ()  # metrics of ``train/`` that ``Health`` does not judge
    code_metrics_prefix: str = ""  # such as ``posterior_``, of the code metrics of ``val/`` that ``Health`` judges


@runtime_checkable
class ShowsImages(Protocol):
    """A model with images to show at each validation."""

    def example_images(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return images (B, C, H, W) in [0, 1] by name, such as ``input`` and ``reconstruction``."""


@runtime_checkable
class ShowsSignals(Protocol):
    """A model with signals to plot at each validation."""

    def example_signals(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return ``input`` and ``reconstruction`` (B, C, L), and ``indices`` (B, l, ...)."""


@runtime_checkable
class CountsCodes(Protocol):
    """A model that counts the codes of a validation."""

    def code_counts(self) -> Tensor:
        """Return the uses of each code in this validation, (K,) int64, summed over the ranks, which all call it."""


@runtime_checkable
class CountsConfusion(Protocol):
    """A model that counts the predictions of a validation."""

    def confusion_counts(self) -> Tensor:
        """Return how often class i was predicted as j in this validation, (K, K), summed over the ranks."""


@runtime_checkable
class HasTopics(Protocol):
    """A model of topics."""

    def topic_table(self) -> TopicTable:
        """Return the topics with their words, probabilities and metrics."""
