"""Health reports nothing in healthy trainings of all models."""

from functools import partial
from pathlib import Path

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

import vqlab
from tests.helpers.bare import BARE
from tests.helpers.models import build
from tests.helpers.planted import Planted
from vqlab.callbacks.health.callback import Health

STEPS = 40


def autoencoder():
    return vqlab.SmallEncoder(1, 16, 8, 1), vqlab.SmallDecoder(1, 16, 8, 1)


def categorical(model, **options):
    shape = {"num_embeddings": 8, "num_latents": 4, "channels": 1, "image_size": 16, "nll_samples": 4}
    return build(model, vqlab.MLPEncoder(1, 16, (32,), 16), vqlab.MLPDecoder(1, 16, (32,), 16), **shape, **options)


def signals():
    nets = {"pool": (4,), "d_state": 8}
    return build(
        vqlab.S4DVQ,
        vqlab.S4DEncoder(1, 16, **nets),
        vqlab.S4DDecoder(16, 1, 16, **nets),
        vqlab.VectorQuantizer(16, 8),
        length=128,
    )


def glyphs():
    """Random strokes, and the same thinner."""
    coarse = torch.rand(64, 1, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.3
    ink = torch.nn.functional.interpolate(coarse.float(), scale_factor=4.0)
    thin = 1 - torch.nn.functional.max_pool2d(1 - ink, 3, stride=1, padding=1)
    common = {"style": torch.zeros(64, dtype=torch.int64), "char": torch.arange(64), "density": ink.mean((1, 2, 3))}
    batch = {"source": 1 - 2 * ink, "target": 1 - 2 * thin, **common}
    return DataLoader([{name: value[i] for name, value in batch.items()} for i in range(64)], batch_size=16)


digits = partial(vqlab.Digits, image_size=16, batch_size=32)
HEALTHY = {
    "vqvae": (
        lambda: build(vqlab.VQVAE, *autoencoder(), vqlab.VectorQuantizer(32, 8), channels=1, image_size=16, lr=2e-3),
        digits,
    ),
    "vqgan": (
        lambda: build(
            vqlab.VQGAN,
            *autoencoder(),
            vqlab.VectorQuantizer(32, 8),
            discriminator=vqlab.PatchGAN(1, 8, num_layers=2),
            perceptual_weight=0.0,
            disc_start=20,
            channels=1,
            image_size=16,
            lr=2e-3,
            disc_lr=2e-4,
        ),
        digits,
    ),
    "jsa": (lambda: categorical(vqlab.JSA, cache_start_epoch=0, train_size=1437, lr=1e-3), digits),
    "discrete_vae": (lambda: categorical(vqlab.DiscreteVAE, lr=3e-3), digits),
    "s4dvq": (signals, lambda: vqlab.ECG(num_records=20, seconds=10, length=128, batch_size=16)),
    "sgan": (
        lambda: build(
            vqlab.SGAN, vqlab.MLPGenerator(8, 1, 16, (32,)), vqlab.MLPFeatures(1, 16, (32, 16)), image_size=16, lr=1e-3
        ),
        partial(digits, labels_per_class=10),
    ),
    "font_gan": (
        lambda: build(
            vqlab.FontGAN,
            vqlab.UNet(16, 1, base_channels=4),
            vqlab.GlyphDiscriminator(1, base_channels=4, num_layers=1),
            image_size=16,
            disc_lr=2e-4,
        ),
        glyphs,
    ),
    "gan_topic": (
        lambda: build(vqlab.GANTopicModel, num_topics=4, vocab_size=60, num_classes=4, hidden_features=8),
        lambda: Planted(num_topics=4, vocab=60, num_documents=200, batch_size=32),
    ),
    "prior": (
        lambda: build(
            vqlab.CodePrior,
            build(vqlab.VQVAE, *autoencoder(), vqlab.VectorQuantizer(32, 8), channels=1, image_size=16),
            dim=32,
            depth=1,
            heads=2,
        ),
        digits,
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_training(name):
    torch.manual_seed(0)
    build, data = HEALTHY[name]
    model, source, health = build(), data(), Health(grace_steps=30)
    every = {"val_check_interval": 20, "check_val_every_n_epoch": None, "limit_val_batches": 2, "log_every_n_steps": 1}
    trainer = lightning.Trainer(**{**BARE, "max_steps": STEPS, "max_epochs": -1, **every}, callbacks=[health])
    if isinstance(source, DataLoader):
        trainer.fit(model, source, source)
    else:
        trainer.fit(model, datamodule=source)
    assert not Path("health.jsonl").exists(), Path("health.jsonl").read_text()
    assert len(health.history.lines["grad_norm"]) == STEPS
