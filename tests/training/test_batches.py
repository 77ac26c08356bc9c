"""A DataLoader of the user's own: the ordinary forms of a batch train every model, others are refused in one line."""

import lightning
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import vqlab
from tests.helpers.bare import BARE
from tests.helpers.models import build
from tests.helpers.refusal import refused
from vqlab.nn.value_range import ValueRange
from vqlab.training.batches import as_batch

IMAGES, LABELS = torch.rand(8, 1, 16, 16) * 2 - 1, torch.arange(8) % 2
BYTES = ((IMAGES + 1) * 127).byte()
FORMAT = {"channels": 1, "image_size": 16}


def parts():
    return {"encoder": vqlab.SmallEncoder(1, 16, 8, 1), "decoder": vqlab.SmallDecoder(1, 16, 8, 1), **FORMAT}


def vqvae():
    return build(vqlab.VQVAE, **parts(), quantizer=vqlab.VectorQuantizer(16, 8))


def jsa():
    sampling = {"cache": False, "num_mis_steps": 2, "nll_samples": 2, "test_nll_samples": 2}
    return build(vqlab.JSA, **parts(), num_embeddings=16, **sampling)


def sgan():
    nets = vqlab.ConvGenerator(16, 1, 16, 16), vqlab.ConvFeatures(1, 16, (8, 16))
    return build(vqlab.SGAN, *nets, num_classes=2, **FORMAT)


def s4dvq():
    nets = vqlab.S4DEncoder(d_model=8, d_state=8), vqlab.S4DDecoder(in_channels=8, d_model=8, d_state=8)
    return build(vqlab.S4DVQ, *nets, vqlab.VectorQuantizer(16, 8), length=128)


def topics():
    return build(vqlab.GANTopicModel, 3, init="random", hidden_features=8, vocab_size=30)


def fonts():
    return build(vqlab.FontGAN, vqlab.UNet(16, 1, base_channels=4), vqlab.GlyphDiscriminator(1, 4, 2), image_size=16)


GOOD = {
    "image, label": (vqvae, TensorDataset(IMAGES, LABELS)),
    "image alone in a tuple": (vqvae, TensorDataset(IMAGES)),
    "bytes": (vqvae, BYTES),
    "bytes in a dict": (jsa, [{"image": image} for image in BYTES]),
    "numpy doubles": (vqvae, list(IMAGES.numpy().astype(np.float64))),
    "image, label of an SGAN": (sgan, TensorDataset(BYTES, LABELS.int())),
    "signal, label": (s4dvq, TensorDataset(torch.randn(8, 1, 128, dtype=torch.float64), LABELS)),
    "counts": (topics, torch.randint(1, 4, (8, 30))),
    "source, target, style as bytes": (fonts, TensorDataset(BYTES, BYTES, torch.zeros(8).int())),
}


@pytest.mark.parametrize("form", GOOD)
def test_the_ordinary_forms_train_validate_test_and_predict(form):
    build, data = GOOD[form]
    model, loader = build(), DataLoader(data, batch_size=4)
    trainer = lightning.Trainer(**BARE, max_steps=2)
    trainer.fit(model, loader, loader)
    trainer.test(model, loader, verbose=False)
    first, second = trainer.predict(model, loader)
    assert all(len(value) == 4 for value in (*first.values(), *second.values()))


def test_bytes_are_what_their_floats_are():
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


def test_noise_beyond_the_range_is_not_refused():
    as_batch(IMAGES * 1.05, "image", ValueRange("signed"), torch.float32)
    as_batch(IMAGES * 5, "image", ValueRange("standardized", (0.5,), (0.1,)), torch.float32)


def test_an_sgan_without_labels_is_refused():
    with refused("labels", "-1"):
        lightning.Trainer(**BARE, max_steps=1).fit(sgan(), DataLoader(IMAGES, 4), DataLoader(IMAGES, 4))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gradient_clip_val": 0.5}, ("gradient_clip_val must be null for VQGAN", "optimization.clip=0.5")),
        ({"accumulate_grad_batches": 2}, ("accumulate_grad_batches must be 1 for VQGAN", "set accumulate=2")),
    ],
)
def test_options_of_the_trainer_that_the_model_has_itself_are_refused(options, words):
    model = build(vqlab.VQGAN, **parts(), quantizer=vqlab.VectorQuantizer(16, 8), perceptual_weight=0, disc_weight=0)
    with refused(*words):
        lightning.Trainer(**BARE, max_steps=1, **options).fit(model, DataLoader(IMAGES, 4))
