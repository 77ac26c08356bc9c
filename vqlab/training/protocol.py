"""Optional attributes and methods of models that callbacks and the command line use.

Callbacks test the one-method protocols with ``isinstance``. For a LightningModule without an attribute of
:class:`Observed` they use its default.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from vqlab.metrics.topics.words import TopicTable


class Observed(Protocol):
    """Attributes of a model that callbacks and the command line read; a model with codes also has ``quantizer``."""

    modality: str  # kind of the data: ``image``, ``signal``, ``text`` or ``font``
    accumulate: int = 1  # batches per optimizer step of a model with manual optimization, for ``base_lr``
    optimizer_stepped: bool = True  # False while such a model accumulates: EMA and LastAndBest wait for a step
    num_classes: int = 0  # classes of the data, 0 if unknown
    health_hints: ClassVar[Mapping[str, str]] = {}  # health event -> hint, instead of the hint of the rule
    health_ignored: Collection[str] = ()  # metrics of ``train/`` that ``Health`` ignores
    code_metrics_prefix: str = ""  # prefix, such as ``posterior_``, of the ``val/`` code metrics that ``Health`` uses


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
class ComparesCodes(Protocol):
    """A model that counts the codes of a validation by position and by class."""

    def code_histograms(self) -> dict[str, Tensor]:
        """Return the uses of each code by ``position`` and ``class``, (G, K) int64 each, summed over the ranks."""

    def top_code_images(self, batch: dict[str, Tensor], counts: Tensor) -> dict[str, Tensor]:
        """Return images (B, C, H, W) in [0, 1]: ``input``, and what the most frequent codes make of it.

        ``counts`` (K,) are those of ``CountsCodes``.
        """


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
