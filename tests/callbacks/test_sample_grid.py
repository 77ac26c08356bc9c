"""Example images, checked by their pixels."""

from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from tests.helpers.bare import BARE
from tests.helpers.logs_read_back import read_tensorboard
from vqlab.callbacks.sample_grid import CAPTION, PAD, SampleGrid, caption, confusion, histogram, interleave
from vqlab.training.loggers.boards import tensorboard_logger

INPUTS, OUTPUTS = [0.1, 0.2, 0.3], [0.6, 0.7, 0.8]


def coloured(values, size=8):
    """One image per value, of that value all over."""
    return torch.tensor(values).reshape(-1, 1, 1, 1).expand(-1, 3, size, size)


def tile(grid, row, column, size=96):
    top, left = PAD + row * (size + PAD), PAD + column * (size + PAD)
    return grid[:, top : top + size, left : left + size]


@pytest.mark.parametrize(("images", "columns"), [(3, 3), (3, 2), (1, 8)])
def test_reconstructions_are_below_their_inputs(images, columns):
    grid = interleave({"input": coloured(INPUTS[:images]), "reconstruction": coloured(OUTPUTS[:images])}, columns)
    shown, bands, height = min(images, columns), -(-images // columns), 2 * 96 + 3 * PAD + PAD
    assert grid.shape == (3, bands * height, shown * 96 + (shown + 1) * PAD)
    assert grid[:, :PAD].eq(1).all(), "white between the tiles"
    for band, part in enumerate(grid.split(height, dim=1)):
        for column in range(shown):
            number = band * columns + column
            for row, values in enumerate((INPUTS, OUTPUTS)):
                expected = values[number] if number < images else 1.0  # an incomplete band is filled with white
                assert tile(part, row, column).eq(torch.tensor(expected)).all()


@pytest.mark.parametrize(("size", "factor"), [(8, 12), (32, 3), (28, 4), (64, 2), (96, 1), (256, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_small_images_are_enlarged_by_whole_factors(size, factor, channels):
    images = torch.rand(2, channels, size, size).to(torch.bfloat16).requires_grad_()
    grid = interleave({"input": images, "again": images}, columns=2)
    expected = images[1].detach().float().repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    assert torch.equal(tile(grid, 0, 1, size * factor), expected.expand(3, -1, -1))
    assert (grid.dtype, grid.requires_grad) == (torch.float32, False)


@pytest.mark.parametrize(("images", "columns"), [(3, 3), (3, 2), (1, 8)])
def test_the_name_of_each_row_is_beside_it(images, columns):
    names = ["input", "reconstruction", "sample"]
    examples = {name: torch.rand(images, 3, 32, 32) for name in names}
    plain, grid = interleave(examples, columns), interleave(examples, columns, captions=True)
    assert torch.equal(grid[:, :, CAPTION:], plain)
    strip, bands = grid[:, :, :CAPTION], -(-images // columns)
    tops = [band * plain.shape[1] // bands + PAD + row * (96 + PAD) for band in range(bands) for row in range(3)]
    for top, name in zip(tops, names * bands, strict=True):
        assert torch.equal(strip[:, top : top + 96], caption(name, 96))
    drawn = [caption(name, 96) for name in names]
    assert all(dark.min() < 0.3 and dark[:, [0, -1]].eq(1).all() for dark in drawn), "cut off or empty"
    assert len({image.numpy().tobytes() for image in drawn}) == 3


def is_blue(image):
    return (image[2] - image[0] > 0.3) & (image[0] < 0.4)


@pytest.mark.parametrize("codes", [2, 64, 4096])
def test_the_histogram_shows_bars(codes):
    image = histogram(torch.arange(codes))
    assert image.shape == (3, 300, 600)
    assert 0 <= image.min() < image.max() <= 1
    assert is_blue(image).float().mean() > 0.05


def test_even_use_fills_more_of_the_histogram():
    even, uneven = histogram(torch.full((64,), 5)), histogram(torch.tensor([1000] + 63 * [1]))
    assert is_blue(even).float().mean() > 3 * is_blue(uneven).float().mean()


@pytest.mark.parametrize(("used", "size"), [(1, 1024), (16, 1024), (1, 16384), (1, 2), (3, 64)])
def test_the_histogram_shows_a_collapse(used, size):
    counts = torch.zeros(size, dtype=torch.int64)
    counts[torch.randperm(size)[:used]] = 1000
    image, healthy = histogram(counts), histogram(torch.full((size,), 1000))
    blue = [int(is_blue(histogram).any(0).sum()) for histogram in (image, healthy)]
    assert 30 < blue[0] < 0.75 * blue[1], "used or unused codes are not visible"
    assert (image[0] - image[2] > 0.1).any(0).float().mean() > 0.1, "the unused codes are not shaded"
    assert not (healthy[0] - healthy[2] > 0.1).any()


def test_the_title_of_the_histogram_names_perplexity_and_codes_used(monkeypatch):
    figures = []
    monkeypatch.setattr("vqlab.callbacks.sample_grid.drawn", figures.append)
    histogram(torch.tensor([0, 7, 0, 7, 7, 7, 0, 0]))
    histogram(torch.zeros(3, dtype=torch.int64))
    assert [figure.axes[0].get_title() for figure in figures] == [
        "4 of 8 codes used on the validation set, perplexity 4.0",
        "0 of 3 codes used on the validation set, perplexity 0.0",
    ]


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_the_confusion_matrix_is_dark_where_classes_are_confused(classes):
    right = confusion(100 * torch.eye(classes, dtype=torch.int64))
    wrong = confusion(100 * torch.eye(classes, dtype=torch.int64).flip(1))
    assert right.shape == wrong.shape
    height, width = right.shape[1:]
    corner = (slice(None), slice(height // 8, height // 3), slice(width // 8, width // 3))
    assert right[corner].mean() < wrong[corner].mean() - 0.02
    assert confusion(torch.zeros(classes, classes, dtype=torch.int64)).isfinite().all()


class Painter(lightning.LightningModule):
    """Shows its batch, and the batch inverted; validates two batches."""

    def __init__(self):
        super().__init__()
        self.layer, self.shown = nn.Linear(1, 1), []

    def training_step(self, batch, batch_idx):
        return self.layer(batch["image"][:, :1, 0, 0]).mean()

    def validation_step(self, batch, batch_idx):
        pass

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def example_images(self, batch):
        self.shown.append(batch["label"].tolist())
        return {"input": batch["image"], "inverted": 1 - batch["image"]}

    def code_counts(self):
        return torch.arange(10)


def loader(count):
    rows = [{"image": torch.full((3, 8, 8), i / 255), "label": i} for i in range(count)]
    return DataLoader(rows, batch_size=6)


def trainer(*callbacks, **settings):
    settings = {"max_steps": 4, "val_check_interval": 2, **settings}
    return lightning.Trainer(callbacks=list(callbacks), default_root_dir=".", **{**BARE, **settings})


def written():
    return sorted(path.name for path in Path("samples").iterdir())


def test_files_appear_at_each_validation_and_not_before():
    class Watch(lightning.Callback):
        def on_train_start(self, trainer, pl_module):
            assert not Path("samples").exists(), "the sanity check wrote an image"

    model = Painter()
    trainer(SampleGrid(num_images=4, columns=4), Watch(), num_sanity_val_steps=2).fit(model, loader(24), loader(12))
    assert written() == ["codes_000002.png", "codes_000004.png", "step_000002.png", "step_000004.png"]
    assert model.shown == [[0, 1, 2, 3], [0, 1, 2, 3]], "the first images of the first batch"
    pixels = np.asarray(Image.open("samples/step_000004.png"))
    assert pixels[PAD + 50, CAPTION + PAD + 3 * 100 + 50].tolist() == [3, 3, 3]
    assert pixels[PAD + 100 + 50, CAPTION + PAD + 3 * 100 + 50].tolist() == [252, 252, 252]
    assert Image.open("samples/codes_000004.png").size == (600, 300)


def test_counts_are_logged_as_numbers_too():
    class Classifier(Painter):
        code_counts = None

        def confusion_counts(self):
            return torch.tensor([[5, 0], [2, 3]])

    for model in (Painter(), Classifier()):
        trainer(SampleGrid(), logger=tensorboard_logger(type(model).__name__)).fit(model, loader(24), loader(12))
    codes = read_tensorboard("Painter/tensorboard").Histograms("samples/uses_per_code")
    assert [(h.step, h.histogram_value.num, h.histogram_value.max) for h in codes] == [(1, 10, 9), (3, 10, 9)]
    tables = read_tensorboard("Classifier/tensorboard").Tensors("samples/confusion_counts/text_summary")
    text = tables[-1].tensor_proto.string_val[0].decode()
    assert text.splitlines()[2:] == ["| 0 | 0 | 5 |", "| 1 | 0 | 2 |", "| 1 | 1 | 3 |"]


def test_validate_writes_and_test_does_not():
    class Silent(Painter):
        example_images = code_counts = None

    trainer(SampleGrid()).test(Painter(), loader(6), verbose=False)
    trainer(SampleGrid()).validate(Silent(), loader(6), verbose=False)
    assert not Path("samples").exists()
    trainer(SampleGrid()).validate(Painter(), loader(6), verbose=False)
    assert written() == ["codes_000000.png", "step_000000.png"]


def test_an_image_that_fails_leaves_the_old_one(monkeypatch):
    model = Painter()
    trainer(SampleGrid()).validate(model, loader(6), verbose=False)
    before = Path("samples/step_000000.png").read_bytes()

    def truncated(image, file, format):
        file.write(b"half an image")
        raise RuntimeError("truncated")

    monkeypatch.setattr("vqlab.callbacks.sample_grid.save_image", truncated)
    with pytest.raises(RuntimeError, match="truncated"):
        trainer(SampleGrid(num_images=2)).validate(model, loader(6), verbose=False)
    assert Path("samples/step_000000.png").read_bytes() == before
    assert written() == ["codes_000000.png", "step_000000.png"]
