"""Checkpoints of taming-transformers, against a reimplementation of its networks."""

import sys
import types
from pathlib import Path

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import vqlab
from tests.helpers.bare import BARE
from tests.helpers.other_libraries import assert_same, taming_model
from tests.helpers.refusal import refused
from vqlab.interop import load_taming
from vqlab.models import AdversarialSettings
from vqlab.nn import ImageFormat, PatchGAN

SIZES = [
    {},
    {"ch_mult": (1, 1, 2), "attn_resolutions": (4, 16), "blocks": 2},
    {"ch": 64, "ch_mult": (1,), "attn_resolutions": ()},
    {"ch_mult": (1, 3), "num": 7, "dim": 6},
]


def images(size=16):
    return torch.rand(2, 3, size, size) * 2 - 1


def checkpoint(model, path="last.ckpt", **extra):
    state = {**model.state_dict(), "loss.discriminator.main.0.weight": torch.randn(3), **extra}
    torch.save({"state_dict": state, "epoch": 3, "optimizer_states": []}, path)
    return state


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_import_computes_the_same_as_taming(sizes):
    reference = taming_model(**sizes, seed=len(str(sizes)))
    checkpoint(reference)
    torch.save(reference.state_dict(), "bare.pt")
    assert_same(load_taming("bare.pt", images=ImageFormat(size=16)), reference, images())
    model = load_taming("last.ckpt")
    assert not model.training
    assert_same(model, reference, images())
    assert_same(model, reference, images(32))


def test_gumbel_quantizer_computes_the_same_as_taming():
    reference = taming_model(z_channels=4, dim=4)
    codes, proj = nn.Embedding(20, 4), nn.Conv2d(4, 20, 1)
    state = {k: v for k, v in reference.state_dict().items() if not k.startswith("quantize")}
    state |= {"quantize.embed.weight": codes.weight.data, "quantize.proj.weight": proj.weight.data}
    state["quantize.proj.bias"] = proj.bias.data
    torch.save({"state_dict": state}, "gumbel.ckpt")
    model, x = load_taming("gumbel.ckpt"), images()
    with torch.no_grad():
        indices = proj(reference.quant_conv(reference.encoder(x))).argmax(1)
        expected = reference.decoder(reference.post_quant_conv(codes(indices).movedim(-1, 1)))
        assert torch.equal(model.encode(x), indices)
        torch.testing.assert_close(model.reconstruct(x), expected, rtol=1e-5, atol=1e-5)


def test_imported_model_can_be_trained_saved_and_loaded():
    reference = taming_model()
    checkpoint(reference)
    model = load_taming(
        "last.ckpt",
        images=ImageFormat(size=16),
        adversarial=AdversarialSettings(discriminator=PatchGAN(num_layers=2), disc_weight=0.1, disc_start=0),
        lr=1e-9,
    )
    data = DataLoader([{"image": image} for image in images()], batch_size=2)
    trainer = lightning.Trainer(**BARE, max_steps=1)
    trainer.fit(model, data)
    torch.testing.assert_close(model.quantizer.codebook, reference.quantize.embedding.weight)
    trainer.save_checkpoint("own.ckpt")
    again, x = vqlab.load("own.ckpt"), images()
    torch.testing.assert_close(again.reconstruct(x), reference.decode(reference.encode(x)), rtol=1e-4, atol=1e-4)


def test_classes_in_the_file_are_not_needed_and_not_executed(monkeypatch):
    module, ran = types.ModuleType("pytorch_lightning_of_old"), []

    class ModelCheckpoint:
        def __reduce__(self):
            return (record, ("ran",))

    def record(word):
        ran.append(word)
        return word

    for thing in (ModelCheckpoint, record):
        thing.__module__, thing.__qualname__ = module.__name__, thing.__name__
        setattr(module, thing.__name__, thing)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    reference = taming_model()
    callbacks = {ModelCheckpoint: {"best": 1.0}, "object": ModelCheckpoint()}
    torch.save({"state_dict": reference.state_dict(), "callbacks": callbacks}, "old.ckpt")
    torch.load("old.ckpt", weights_only=False)
    assert ran == ["ran"], "unpickling without weights_only executes the code"
    monkeypatch.delitem(sys.modules, module.__name__)
    assert_same(load_taming("old.ckpt"), reference, images())
    assert ran == ["ran"]


def changed(**changes):
    state = {**checkpoint(taming_model()), **changes}
    return {key: value for key, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ("a.ckpt is not taming's .ckpt file", "No such file")),
        (lambda: b"neither", ("a.ckpt is not taming's .ckpt file",)),
        (lambda: {"layer.weight": torch.zeros(2)}, ("a.ckpt contains no VQ-GAN", "encoder.conv_in.weight")),
        (lambda: {"layer.weight": "no tensor"}, ("a.ckpt is not taming's .ckpt file (it contains no state dict)",)),
        (lambda: changed(**{"decoder.mid.block_2.conv1.bias": None}), ("lacks decoder.mid.block_2.conv1.bias",)),
        (
            lambda: changed(**{f"model_ema.weight{i}": torch.zeros(1) for i in range(5)}),
            ("unmatched model_ema.weight0, model_ema.weight1, model_ema.weight2 and 2 more",),
        ),
        (
            lambda: changed(**{"encoder.down.1.block.0.conv2.weight": torch.zeros(64, 64, 1, 1)}),
            ("encoder.down.1.block.0.conv2.weight has shape (64, 64, 1, 1), expected (64, 64, 3, 3)",),
        ),
    ],
)
def test_damaged_and_other_files_are_refused(content, words):
    state = content and content()
    if isinstance(state, bytes):
        Path("a.ckpt").write_bytes(state)
    elif state:
        torch.save({"state_dict": state}, "a.ckpt")
    with refused(*words):
        load_taming("a.ckpt")
