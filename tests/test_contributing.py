"""The two classes in CONTRIBUTING.md work as they stand, and the command line finds them as the page says."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

import vqlab
from tests.e2e.tiny import TRAINER
from vqlab.cli.main import main

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
BLOCKS = dict(zip(("signs", "boards"), re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL), strict=True))
COMMAND = shlex.split(re.search(r"^PYTHONPATH=\. vqlab (fit .*)$", PAGE, re.MULTILINE)[1])
SMALL = [f"--model.{net}.{size}" for net in ("encoder", "decoder") for size in ("hidden_channels=16", "res_channels=8")]


@pytest.fixture
def modules(tmp_path, monkeypatch):
    for name, text in BLOCKS.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield {name: importlib.import_module(name) for name in BLOCKS}
    for name in BLOCKS:
        del sys.modules[name]


@pytest.mark.parametrize("name", BLOCKS)
def test_example_is_short_and_its_file_is_named(name):
    assert len(BLOCKS[name].splitlines()) <= 20
    assert f"`{name}.py`" in PAGE


@pytest.mark.parametrize("spatial", [(7,), (4, 5), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantizer_keeps_the_contract(modules, spatial, dtype):
    quantizer = modules["signs"].SignQuantizer(5)
    z = torch.randn(3, 5, *spatial).to(dtype).requires_grad_()
    out = quantizer(z)
    assert out.quantized.shape == z.shape
    assert out.quantized.dtype == dtype
    assert out.indices.shape == (3, *spatial)
    assert out.indices.dtype == torch.int64
    assert out.loss.shape == ()
    assert 0 <= out.indices.min() <= out.indices.max() < quantizer.num_embeddings == 32
    assert torch.equal(quantizer.decode(out.indices), out.quantized.float())
    assert torch.equal(quantizer.encode(z), out.indices)
    assert torch.equal(out.quantized, torch.where(z > 0, 1.0, -1.0).to(dtype))

    direction = torch.randn(z.shape).to(dtype)
    (out.quantized * direction).sum().backward()
    assert torch.equal(z.grad, direction)  # straight-through


def test_quantizer_reaches_every_code(modules):
    quantizer = modules["signs"].SignQuantizer(5)
    every = torch.arange(32)
    assert torch.equal(quantizer.encode(quantizer.decode(every)), every)


def test_boards_have_the_fields_that_their_label_says(modules):
    data = modules["boards"].Checkerboards(batch_size=64)
    train, val = data.load_train_val()
    assert (len(train), len(val)) == (data.train_size, 64)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (64, 1, 16, 16)
    assert batch["image"].unique().tolist() == [-1.0, 1.0]
    for image, label in zip(batch["image"][:, 0], batch["label"].tolist(), strict=True):
        field = 2**label
        expected = [[1.0 if (r // field + c // field) % 2 else -1.0 for c in range(16)] for r in range(16)]
        assert image.tolist() == expected


def test_command_line_trains_them_and_load_gives_the_model_back(modules, tmp_path):
    nets = ["--model.encoder=SmallEncoder", "--model.decoder=SmallDecoder", *SMALL]
    main([*COMMAND, *nets, *TRAINER, "--data.batch_size=32", "--trainer.max_steps=3", "--name=first"])
    model = vqlab.load(tmp_path / "runs/vqvae/first/checkpoints/last.ckpt")
    assert type(model.quantizer) is modules["signs"].SignQuantizer
    assert (model.channels, model.image_size) == (1, 16)
    images = next(iter(modules["boards"].Checkerboards(batch_size=8).val_dataloader()))["image"]
    codes = model.encode(images)
    assert codes.shape == (8, 4, 4)
    assert torch.equal(model.decode(codes), model.reconstruct(images))
