"""FixMatch: its loss against the formula, hidden labels, what it gains from unlabelled images, and messages."""

import lightning
import pytest
import torch
import torch.nn.functional as F

from tests.helpers import bare
from tests.helpers.hidden_labels import poison
from tests.helpers.models import assert_same_weights
from tests.helpers.refusal import refused
from vqlab.callbacks import EMA
from vqlab.data import Digits
from vqlab.models import FixMatch
from vqlab.nn import ConvFeatures, ImageFormat, MLPFeatures


def small(**options):
    torch.manual_seed(0)
    network = MLPFeatures(1, 8, (32, 16), noise=0.0, input_noise=0.0)
    images = ImageFormat(channels=1, size=8, num_classes=10)
    return FixMatch(**{"network": network, "images": images, **options})


def digits(**options):
    few = {"labels_per_class": 10, "labelled_batch_size": 16, "augment": True, "strong_augment": True}
    return Digits(**{"image_size": 8, "batch_size": 32, **few, **options})


def fit(model, steps, data, *callbacks):
    bare.trainer(*callbacks, max_steps=steps, limit_val_batches=0).fit(model, data)


def test_a_step_minimizes_the_loss_of_the_paper():
    model = small(threshold=0.12, unlabelled_weight=0.7, lr=1e-3)
    seen = {}

    class Collect(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.update(batch)

    fit(model, 1, digits(), Collect())
    plain = small()  # the same initial weights
    assert seen["labelled_image"].shape == (16, 1, 8, 8)
    assert seen["image"].shape == seen["strong_image"].shape == (32, 1, 8, 8)
    loss = F.nll_loss(plain(seen["labelled_image"]).log_softmax(1), seen["labelled_label"])
    p = plain(seen["image"]).softmax(1).detach()
    terms = [
        -log_p[row.argmax()]
        for row, log_p in zip(p, plain(seen["strong_image"]).log_softmax(1), strict=True)
        if row.max() >= 0.12
    ]
    assert 3 < len(terms) < 32, "some are confident"
    (loss + 0.7 * sum(terms) / 32).backward()
    optimizer = torch.optim.AdamW(plain.parameters(), 1e-3, (0.9, 0.999), weight_decay=0.0)
    optimizer.step()
    assert_same_weights(model, plain, rtol=1e-4, atol=1e-6)


def test_hidden_labels_change_no_weight():
    models = []
    for data in (digits(), poison(digits())):
        lightning.seed_everything(0, verbose=False)
        models.append(small())
        fit(models[-1], 3, data)
    assert_same_weights(*models, rtol=0, atol=0)


def test_missing_images_name_the_option():
    with refused("FixMatch needs batches with strong_image: set strong_augment=true"):
        fit(small(), 1, digits(strong_augment=False))


@pytest.mark.slow
def test_unlabelled_images_raise_accuracy():
    """Five labels per class, 600 steps."""
    accuracies = {}
    for weight in (0.0, 1.0):
        lightning.seed_everything(0, verbose=False)
        model = small(network=ConvFeatures(1, 8, (32, 64), dropout=0), unlabelled_weight=weight, lr=1e-3)
        data = digits(batch_size=64, labels_per_class=5)
        fit(model, 600, data, EMA(0.99))
        (tested,) = bare.trainer().test(model, data, verbose=False)
        accuracies[weight] = (bare.validate(model, data)["val/acc"] + tested["test/acc"]) / 2
    assert accuracies[1.0] >= accuracies[0.0] + 0.02
