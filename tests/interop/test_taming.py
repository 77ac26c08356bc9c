"""Checkpoints of taming-transformers against a statement of its networks."""

import pickle
import sys
import types

import pytest
import torch
from torch import nn

import vqlab
from tests.helpers.other_libraries import assert_same, taming_model
from tests.helpers.refusal import refused
from vqlab.interop.taming import load_taming

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
def test_it_computes_what_taming_computes(sizes):
    reference = taming_model(**sizes, seed=len(str(sizes)))
    checkpoint(reference)
    model = load_taming("last.ckpt")
    assert not model.training
    assert_same(model, reference, images())
    assert_same(model, reference, images(32))


def test_a_bare_state_dict_will_do():
    reference = taming_model()
    torch.save(reference.state_dict(), "bare.pt")
    assert_same(load_taming("bare.pt", image_size=16), reference, images())


def test_gumbel():
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


def test_the_codebook_is_kept_when_training_begins():
    reference = taming_model()
    checkpoint(reference)
    model = load_taming("last.ckpt").train()
    out = model(images())[1]
    model.quantizer.update(out.stats)
    assert torch.equal(model.quantizer.codebook, reference.quantize.embedding.weight)
    assert isinstance(model.quantizer.codebook, nn.Parameter)


def test_it_can_be_saved_as_a_checkpoint_of_vqlab_and_trained_on():
    import lightning
    from torch.utils.data import DataLoader

    from tests.helpers.bare import BARE
    from vqlab.nn.gan.patchgan import PatchGAN

    reference = taming_model()
    checkpoint(reference)
    model = load_taming(
        "last.ckpt", image_size=16, disc_weight=0.1, disc_start=0, lr=1e-9, discriminator=PatchGAN(num_layers=2)
    )
    data = DataLoader([{"image": image} for image in images()], batch_size=2)
    trainer = lightning.Trainer(**BARE, max_steps=1)
    trainer.fit(model, data)
    trainer.save_checkpoint("own.ckpt")
    again, x = vqlab.load("own.ckpt"), images()
    torch.testing.assert_close(again.reconstruct(x), reference.decode(reference.encode(x)), rtol=1e-4, atol=1e-4)


# Files


def test_classes_in_the_file_are_neither_needed_nor_run(monkeypatch):
    """Old Lightning's files have classes as keys; one that runs code when it is unpickled must not."""
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
    assert ran == ["ran"], "the trap works"
    monkeypatch.delitem(sys.modules, module.__name__)
    assert_same(load_taming("old.ckpt"), reference, images())
    assert ran == ["ran"]


@pytest.mark.parametrize("content", [b"", b"neither", pickle.dumps({"a": 1})])
def test_damaged_files_are_refused(tmp_path, content):
    (tmp_path / "a.ckpt").write_bytes(content)
    with refused("a.ckpt"):
        load_taming("a.ckpt")


def test_missing_and_foreign_files_are_refused():
    with refused("nowhere.ckpt does not exist"):
        load_taming("nowhere.ckpt")
    torch.save({"state_dict": {"layer.weight": torch.zeros(2)}}, "other.ckpt")
    with refused("other.ckpt holds no VQ-GAN", "encoder.conv_in.weight"):
        load_taming("other.ckpt")
    torch.save({"state_dict": {"layer.weight": "no tensor"}}, "text.ckpt")
    with refused("text.ckpt holds no state dict"):
        load_taming("text.ckpt")


def test_missing_unmatched_and_misshapen_keys_are_named():
    state = checkpoint(taming_model())

    def save(**changes):
        changed = {**state, **changes}
        torch.save({k: v for k, v in changed.items() if v is not None}, "changed.ckpt")

    save(**{"decoder.mid.block_2.conv1.bias": None})
    with refused("lacks decoder.mid.block_2.conv1.bias"):
        load_taming("changed.ckpt")
    save(**{f"model_ema.weight{i}": torch.zeros(1) for i in range(5)})
    with refused("unmatched model_ema.weight0, model_ema.weight1, model_ema.weight2 and 2 more"):
        load_taming("changed.ckpt")
    save(**{"encoder.down.1.block.0.conv2.weight": torch.zeros(64, 64, 1, 1)})
    with refused("encoder.down.1.block.0.conv2.weight has shape (64, 64, 1, 1)", "(64, 64, 3, 3)"):
        load_taming("changed.ckpt")
