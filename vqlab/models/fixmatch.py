"""FixMatch (Sohn et al. 2020, arXiv:2001.07685): a classifier from few labels by consistency, without a generator."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from vqlab.errors import UserError
from vqlab.models.model import Model
from vqlab.nn import ConvFeatures, ImageFormat
from vqlab.nn.base import FeatureNet
from vqlab.nn.precision import upcast
from vqlab.training import Optimization
from vqlab.training.batches import check_labels, passed_on
from vqlab.training.steps import require_finite
from vqlab.validation import Fraction, NonNegative, Positive


class FixMatch(Model):
    """A classifier whose confident predictions for weakly augmented images are the labels of strongly augmented ones.

    Loss: cross-entropy of the labelled images + unlabelled_weight * cross-entropy of the strongly augmented unlabelled
    images with the class predicted for the weakly augmented ones, over those whose probability exceeds ``threshold``
    (equations 3 and 4). It is a baseline for :class:`~vqlab.SGAN`, on the same networks and data: set ``augment`` and
    ``strong_augment`` of the data, and ``labels_per_class``.

    Args:
        network: Network to features, to which a linear layer is added. Default: a ``ConvFeatures``.
        threshold: Probability from which a prediction is used as a label.
        unlabelled_weight: Weight of the unlabelled images; 0 trains a classifier only on the labelled images.
        lr: Absolute learning rate. Default without ``base_lr``: 1e-3.
        base_lr: Rate per image: lr = base_lr x batch_size x devices x nodes. Give one of the two.
        optimization: Optimizer settings.
        images: Format of the images, with ``num_classes``, K; the command line takes it from the data.

    Example:
        >>> model = FixMatch().eval()
        >>> tuple(model.classify(torch.randn(2, 1, 32, 32)).shape)
        (2, 10)
    """

    modality = "image"
    default_lr = 1e-3

    def __init__(
        self,
        network: FeatureNet | None = None,
        threshold: Fraction = 0.95,
        unlabelled_weight: NonNegative = 1.0,
        lr: Positive | None = None,
        base_lr: Positive | None = None,
        optimization: Optimization = Optimization(),
        images: ImageFormat = ImageFormat(channels=1, num_classes=10),
    ) -> None:
        super().__init__()
        num_classes = images.require_classes()
        self.threshold, self.unlabelled_weight, self.optimization = threshold, unlabelled_weight, optimization
        self.images, self.value_range, self.num_classes = images, images.value_range, num_classes
        self.network = network or ConvFeatures(images.channels, images.size)
        self.class_head = nn.Linear(self.network.out_features, num_classes)
        self.confusion = MulticlassConfusionMatrix(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the K classes, (B, K)."""
        return self.class_head(self.network(x))

    def classify(self, x: Tensor) -> Tensor:
        """Return the probabilities of the K classes of images (B, C, H, W), (B, K)."""
        return self(x).softmax(1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch, whose images with labels are all of it without ``labels_per_class``."""
        if "strong_image" not in batch:
            raise UserError("FixMatch needs batches with strong_image: set strong_augment=true")
        labelled, labels = (batch.get(f"labelled_{name}", batch[name]) for name in ("image", "label"))
        weak, strong = batch["image"], batch["strong_image"]
        if batch_idx == 0:
            check_labels(labels, self.num_classes, "take data with classes, or set --data.labels_per_class")

        # One pass, so that batch norm sees all three.
        logits = upcast(self(torch.cat([labelled, weak, strong])))
        of_labelled, of_weak, of_strong = logits.split([len(labelled), len(weak), len(strong)])
        confidence, guess = of_weak.detach().softmax(1).max(1)
        confident = (confidence >= self.threshold).float()
        supervised = F.cross_entropy(of_labelled, labels)
        unsupervised = (confident * F.cross_entropy(of_strong, guess, reduction="none")).mean()
        loss = supervised + self.unlabelled_weight * unsupervised

        acc = (of_labelled.argmax(1) == labels).float().mean()
        terms = {"loss": loss, "supervised": supervised, "unsupervised": unsupervised}
        require_finite(terms, batch_idx, self.global_step)
        self.log_terms(terms | {"acc": acc, "confident": confident.mean()}, prog_bar="loss")
        return loss

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self.to(memory_format=torch.channels_last)  # a third faster

    def configure_optimizers(self) -> Any:
        return self.optimization.optimizer(self, self.parameters(), "classifier")

    def start_evaluation(self) -> None:
        self.confusion.reset()

    def evaluate(self, batch: dict[str, Tensor], stage: str) -> None:
        """Log loss and accuracy."""
        logits, labels = upcast(self(batch["image"])), batch["label"]
        self.confusion.update(logits.argmax(1), labels)
        terms = {"loss": F.cross_entropy(logits, labels), "acc": (logits.argmax(1) == labels).float().mean()}
        self.log_means(stage, terms, len(labels), prog_bar=True)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return ``probabilities`` (B, K) with the batch's ``index``."""
        return {"probabilities": self.classify(batch["image"]), **passed_on(batch, "index")}

    def confusion_counts(self) -> Tensor:
        """Return how often class i was predicted as class j in this evaluation, (K, K), summed over ranks."""
        return self.confusion.compute()
