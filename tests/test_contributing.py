"""The classes and commands in CONTRIBUTING.md work as printed."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import vqlab
from tests.e2e.tiny import TRAINER, logged
from tests.helpers.refusal import refused
from vqlab.cli.main import main

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
LINES = {"signs": 20, "boards": 20, "denoising": 60}  # file of each example -> maximum number of lines
BLOCKS = dict(zip(LINES, re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL), strict=True))
COMMANDS = [
    shlex.split(line) for line in re.findall(r"^PYTHONPATH=\. vqlab (.*)$", PAGE.replace("\\\n", ""), re.MULTILINE)
]
FIT_QUANTIZER, FIT_MODEL, VALIDATE_MODEL = COMMANDS
SMALL = [f"--model.{net}.{size}" for net in ("encoder", "decoder") for size in ("hidden_channels=16", "res_channels=8")]


@pytest.fixture
def modules(tmp_path, monkeypatch):
    for name, text in BLOCKS.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield {name: importlib.import_module(name) for name in BLOCKS}
    for name in BLOCKS:
        del sys.modules[name]


def test_examples_are_short_and_name_their_files():
    for name, lines in LINES.items():
        assert len(BLOCKS[name].splitlines()) <= lines
        assert f"`{name}.py`" in PAGE


@pytest.mark.parametrize("spatial", [(7,), (4, 5), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantizer_contract(modules, spatial, dtype):
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
    assert torch.equal(quantizer.encode(quantizer.decode(torch.arange(32))), torch.arange(32))


def test_size_of_board_squares_equals_the_label(modules):
    data = modules["boards"].Checkerboards(batch_size=64)
    train, val = data.load_train_val()
    assert (len(train), len(val)) == (data.train_size, 64)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (64, 1, 16, 16)
    for image, label in zip(batch["image"][:, 0], batch["label"].tolist(), strict=True):
        field = 2**label
        expected = [[1.0 if (r // field + c // field) % 2 else -1.0 for c in range(16)] for r in range(16)]
        assert image.tolist() == expected


def test_fit_and_load_with_quantizer_and_data(modules, tmp_path):
    nets = ["--model.encoder=SmallEncoder", "--model.decoder=SmallDecoder", *SMALL]
    main([*FIT_QUANTIZER, *nets, *TRAINER, "--data.batch_size=32", "--trainer.max_steps=3", "--name=first"])
    model = vqlab.load(tmp_path / "runs/vqvae/first/checkpoints/last.ckpt")
    assert type(model.quantizer) is modules["signs"].SignQuantizer
    assert model.images.shape == (1, 16, 16)
    images = next(iter(modules["boards"].Checkerboards(batch_size=8).val_dataloader()))["image"]
    codes = model.encode(images)
    assert codes.shape == (8, 4, 4)
    assert torch.equal(model.decode(codes), model.reconstruct(images))


def test_fit_validate_and_load_the_model(modules, tmp_path, capsys):
    nets = ["--model.encoder=SmallEncoder", "--model.decoder=SmallDecoder", *SMALL]
    steps = ["--model.lr=0.01", "--data.batch_size=32", "--trainer.max_steps=32", "--trainer.val_check_interval=8"]
    main([*FIT_MODEL, *nets, *TRAINER, *steps])
    run = tmp_path / "runs/denoisingautoencoder/first"
    losses = [row["val/loss"] for row in logged(run / "metrics.csv") if "val/loss" in row]
    assert len(losses) == len([*run.glob("samples/step_*.png")]) == 4
    assert losses[-1] < losses[0] / 2

    main([*VALIDATE_MODEL, "--trainer.enable_progress_bar=false"])
    assert float(re.search(r"val/loss +([0-9.]+)", capsys.readouterr().out)[1]) == pytest.approx(losses[-1], rel=1e-4)

    model = vqlab.load(run / "checkpoints/last.ckpt")
    assert type(model) is modules["denoising"].DenoisingAutoencoder
    assert model.images == vqlab.ImageFormat(channels=1, size=16, num_classes=4)
    batches = [*modules["boards"].Checkerboards(batch_size=32).val_dataloader()]
    with torch.no_grad():
        of_batches = [F.mse_loss(model(model.noisy(batch["image"])), batch["image"]).item() for batch in batches]
        shown = model.example_images(batches[0])
    assert sum(of_batches) / len(of_batches) == pytest.approx(losses[-1], rel=1e-5)
    assert {name: tuple(images.shape) for name, images in shown.items()} == dict.fromkeys(
        ("input", "noisy", "reconstruction"), (32, 1, 16, 16)
    )
    assert all(0 <= images.min() <= images.max() <= 1 for images in shown.values())


def test_message_of_wrong_argument(modules):
    with refused("noise must be at least 0, got -1.0"):
        modules["denoising"].DenoisingAutoencoder(noise=-1.0)
    with refused("30"):
        modules["denoising"].DenoisingAutoencoder(images=vqlab.ImageFormat(size=30))
