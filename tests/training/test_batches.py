"""Batches of a user's own DataLoader: accepted forms, and the message for other forms."""

import lightning
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.helpers.bare import BARE
from tests.helpers.refusal import refused
from tests.helpers.small_models import fonts, jsa, s4dvq, sgan, topics, vqgan, vqvae
from vqlab.nn import ValueRange
from vqlab.training.batches import as_batch

IMAGES, LABELS = torch.rand(8, 1, 16, 16) * 2 - 1, torch.arange(8) % 2
BYTES = ((IMAGES + 1) * 127).byte()
GLYPHS = torch.randint(256, (8, 1, 32, 32), dtype=torch.uint8)

GOOD = {
    "image, label": (vqvae, TensorDataset(IMAGES, LABELS)),
    "image alone in a tuple": (vqvae, TensorDataset(IMAGES)),
    "bytes": (vqvae, BYTES),
    "bytes in a dict": (jsa, [{"image": image} for image in BYTES]),
    "numpy doubles": (vqvae, list(IMAGES.numpy().astype(np.float64))),
    "image, label of an SGAN": (sgan, TensorDataset(BYTES, LABELS.int())),
    "signal, label": (s4dvq, TensorDataset(torch.randn(8, 1, 128, dtype=torch.float64), LABELS)),
    "counts": (topics, torch.randint(1, 4, (8, 30))),
    "source, target, style as bytes": (fonts, TensorDataset(GLYPHS, GLYPHS, torch.zeros(8).int())),
}


@pytest.mark.parametrize("form", GOOD)
def test_accepted_forms_train_test_and_predict(form):
    make, data = GOOD[form]
    model, loader = make(), DataLoader(data, batch_size=4)
    trainer = lightning.Trainer(**BARE, max_steps=2)
    trainer.fit(model, loader, loader)
    trainer.test(model, loader, verbose=False)
    first, second = trainer.predict(model, loader)
    assert all(len(value) == 4 for value in (*first.values(), *second.values()))


def test_uint8_images_are_mapped_to_the_value_range():
    x = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    for kind, expected in (("unit", [0, 0.2, 1]), ("signed", [-1, -0.6, 1])):
        batch = as_batch(x, "image", ValueRange(kind), torch.float32)
        torch.testing.assert_close(batch["image"].flatten(), torch.tensor(expected))
        assert batch["label"].tolist() == [-1]
    index = torch.tensor([7])
    assert as_batch({"image": x, "index": index}, "image", ValueRange("unit"), torch.float32)["index"] is index


@pytest.mark.parametrize(
    ("modality", "batch", "words"),
    [
        ("image", [1, 2, 3, 4], ("image (B, C, H, W)", "(image, label)", "list")),
        ("image", {"pixel_values": IMAGES}, ("image", "pixel_values")),
        ("signal", {"image": IMAGES}, ("signal (B, C, L)",)),
        ("font", IMAGES, ("source and target",)),
        ("image", IMAGES * 255, ("[-1, 1]", "signed", "uint8")),
        ("image", (IMAGES, LABELS.float()), ("label", "integers (8,)", "float32")),
        ("image", (IMAGES, ["cat"] * 8), ("label", "list")),
    ],
)
def test_other_forms_are_refused(modality, batch, words):
    with refused(*words):
        as_batch(batch, modality, ValueRange("signed"), torch.float32)


def test_values_slightly_outside_the_range_are_accepted():
    as_batch(IMAGES * 1.05, "image", ValueRange("signed"), torch.float32)
    as_batch(IMAGES * 5, "image", ValueRange("standardized", (0.5,), (0.1,)), torch.float32)


def test_sgan_without_labels_is_refused():
    with refused("labels", "-1"):
        lightning.Trainer(**BARE, max_steps=1).fit(sgan(), DataLoader(IMAGES, 4), DataLoader(IMAGES, 4))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gradient_clip_val": 0.5}, ("gradient_clip_val must be null for VQGAN", "optimization.clip=0.5")),
        ({"accumulate_grad_batches": 2}, ("accumulate_grad_batches must be 1 for VQGAN", "set accumulate=2")),
    ],
)
def test_trainer_clipping_and_accumulation_are_refused(options, words):
    with refused(*words):
        lightning.Trainer(**BARE, max_steps=1, **options).fit(vqgan(), DataLoader(IMAGES, 4))
