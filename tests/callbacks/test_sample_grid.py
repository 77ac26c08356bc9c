"""Images and plots of SampleGrid, checked by their pixels."""

from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from PIL import Image, ImageSequence
from torch.utils.data import DataLoader

from tests.helpers.bare import trainer
from tests.helpers.logs_read_back import read_tensorboard
from vqlab.callbacks import sample_grid
from vqlab.callbacks.code_statistics import draw_statistics
from vqlab.callbacks.sample_grid import CAPTION, PAD, SampleGrid, caption, confusion, histogram, interleave, write_gif
from vqlab.training.loggers.boards import tensorboard_logger

INPUTS, OUTPUTS = [0.1, 0.2, 0.3], [0.6, 0.7, 0.8]


def uniform(values, size=8):
    """One image per value, with this value in each pixel."""
    return torch.tensor(values).reshape(-1, 1, 1, 1).expand(-1, 3, size, size)


def tile(grid, row, column, size=96):
    top, left = PAD + row * (size + PAD), PAD + column * (size + PAD)
    return grid[:, top : top + size, left : left + size]


@pytest.mark.parametrize(("images", "columns"), [(3, 3), (3, 2), (1, 8)])
def test_reconstructions_are_below_their_inputs_and_right_of_captions(images, columns):
    rows = {"input": uniform(INPUTS[:images]), "reconstruction": uniform(OUTPUTS[:images])}
    grid, captioned = interleave(rows, columns), interleave(rows, columns, captions=True)
    shown, bands, height = min(images, columns), -(-images // columns), 2 * 96 + 3 * PAD + PAD
    assert grid.shape == (3, bands * height, shown * 96 + (shown + 1) * PAD)
    assert grid[:, :PAD].eq(1).all(), "white between the tiles"
    assert torch.equal(captioned[:, :, CAPTION:], grid)
    for band, part in enumerate(grid.split(height, dim=1)):
        for row, (name, values) in enumerate(zip(rows, (INPUTS, OUTPUTS), strict=True)):
            top = band * height + PAD + row * (96 + PAD)
            assert torch.equal(captioned[:, top : top + 96, :CAPTION], caption(name, 96))
            for column in range(shown):
                number = band * columns + column
                expected = values[number] if number < images else 1.0  # an incomplete band is filled with white
                assert tile(part, row, column).eq(torch.tensor(expected)).all()
    assert all(caption(name, 96).min() < 0.3 and caption(name, 96)[:, [0, -1]].eq(1).all() for name in rows), "cut off"


@pytest.mark.parametrize(("size", "factor", "channels"), [(8, 12, 1), (28, 4, 3), (256, 1, 3)])
def test_small_images_are_enlarged_by_whole_factors(size, factor, channels):
    images = torch.rand(2, channels, size, size).to(torch.bfloat16).requires_grad_()
    grid = interleave({"input": images, "again": images}, columns=2)
    expected = images[1].detach().float().repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    assert torch.equal(tile(grid, 0, 1, size * factor), expected.expand(3, -1, -1))
    assert (grid.dtype, grid.requires_grad) == (torch.float32, False)


@pytest.mark.parametrize(("used", "size"), [(16, 1024), (1, 2)])
def test_histogram_shows_a_collapse(used, size):
    counts = torch.zeros(size, dtype=torch.int64)
    counts[torch.randperm(size)[:used]] = 1000
    image, healthy = histogram(counts), histogram(torch.full((size,), 1000))
    blue = [int(((p[2] - p[0] > 0.3) & (p[0] < 0.4)).any(0).sum()) for p in (image, healthy)]  # columns with bars
    assert 30 < blue[0] < 0.75 * blue[1], "used or unused codes are not visible"
    assert (image[0] - image[2] > 0.1).any(0).float().mean() > 0.1, "the unused codes are not shaded"
    assert not (healthy[0] - healthy[2] > 0.1).any()


@pytest.mark.parametrize("classes", [2, 100])
def test_confusion_matrix_is_dark_where_classes_are_confused(classes):
    right = confusion(100 * torch.eye(classes, dtype=torch.int64))
    wrong = confusion(100 * torch.eye(classes, dtype=torch.int64).flip(1))
    assert right.shape == wrong.shape
    height, width = right.shape[1:]
    corner = (slice(None), slice(height // 8, height // 3), slice(width // 8, width // 3))
    assert right[corner].mean() < wrong[corner].mean() - 0.02
    assert confusion(torch.zeros(classes, classes, dtype=torch.int64)).isfinite().all()


class Painter(BoringModel):
    """Shows its batch, and the batch inverted."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def step(self, batch):
        return super().step(batch["image"].flatten(1)[:, :32])

    def example_images(self, batch):
        self.shown.append(batch["label"].tolist())
        return {"input": batch["image"], "inverted": 1 - batch["image"]}

    def code_counts(self):
        return torch.arange(10)


def loader(count):
    rows = [{"image": torch.full((3, 8, 8), i / 255), "label": i} for i in range(count)]
    return DataLoader(rows, batch_size=6)


def fit(model, *callbacks, **settings):
    run = trainer(*callbacks, max_steps=4, val_check_interval=2, default_root_dir=".", **settings)
    run.fit(model, loader(24), loader(12))


def written():
    return sorted(path.name for path in Path("samples").iterdir())


def test_files_are_written_at_each_validation_but_the_sanity_check():
    class Watch(lightning.Callback):
        def on_train_start(self, trainer, pl_module):
            assert not Path("samples").exists(), "the sanity check wrote an image"

    model = Painter()
    fit(model, SampleGrid(num_images=4, columns=4), Watch(), num_sanity_val_steps=2)
    assert written() == ["codes_000002.png", "codes_000004.png", "step_000002.png", "step_000004.png", "steps.gif"]
    assert model.shown == [[0, 1, 2, 3], [0, 1, 2, 3]], "the first images of the first batch"
    pixels = np.asarray(Image.open("samples/step_000004.png"))
    assert pixels[PAD + 50, CAPTION + PAD + 3 * 100 + 50].tolist() == [3, 3, 3]
    assert pixels[PAD + 100 + 50, CAPTION + PAD + 3 * 100 + 50].tolist() == [252, 252, 252]
    assert Image.open("samples/codes_000004.png").size == (600, 300)


def test_early_step_shows_the_batch_of_the_sanity_check_and_leaves_the_model_in_training(monkeypatch):
    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            assert pl_module.training

    monkeypatch.setattr(sample_grid, "EARLY", 3)
    model = Painter()
    fit(model, SampleGrid(num_images=4, columns=4), Watch(), num_sanity_val_steps=1)
    steps = [f"step_00000{step}.png" for step in (2, 3, 4)]
    assert written() == ["codes_000002.png", "codes_000004.png", *steps, "steps.gif"]
    assert model.shown == [[0, 1, 2, 3]] * 3


class Comparer(Painter):
    def code_histograms(self):
        return {"position": torch.eye(4).long(), "class": torch.ones(2, 4).long()}

    def top_code_images(self, batch, counts):
        assert torch.equal(counts, torch.arange(10))
        return {"input": batch["image"], "all codes": 1 - batch["image"]}


def test_statistics_and_top_codes_are_drawn_of_the_first_images():
    fit(Comparer(), SampleGrid(num_images=4, columns=4))
    assert [name for name in written() if name[:3] in ("sta", "top")] == [
        "statistics_000002.png",
        "statistics_000004.png",
        "top_000002.png",
        "top_000004.png",
    ]
    pixels = np.asarray(Image.open("samples/top_000004.png"))
    assert pixels[PAD + 100 + 50, CAPTION + PAD + 3 * 100 + 50].tolist() == [252, 252, 252]


def test_statistics_give_the_divergence_and_the_chance_level():
    figure = draw_statistics({"class": torch.tensor([[9, 0], [0, 0], [0, 9]]), "position": torch.ones(3, 2).long()})
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert "mean 1.000, by chance about 0.040" in titles[0]  # 1 / (2 ln 2) * (1 / 2) * (1 / 9), without the empty class
    assert "2 top codes" in titles[1]
    assert "mean 0.000" in titles[1]
    assert "position" in titles[2]
    assert "mean 0.000, by chance about 0.180" in titles[2]  # each position has two codes


def test_gif_shows_the_pictures_in_the_order_of_the_steps(monkeypatch):
    monkeypatch.setattr(sample_grid, "FRAMES", 3)
    Path("samples").mkdir()
    write_gif(Path("samples"))
    assert written() == [], "no picture"
    for step in range(0, 50, 10):
        Image.new("RGB", (60, 30), (step, 0, 0)).save(f"samples/step_{step:06d}.png")
    write_gif(Path("samples"))
    with Image.open("samples/steps.gif") as gif:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
    assert [int(frame[CAPTION + 15, 30, 0]) for frame in frames] == [0, 20, 40]
    assert frames[0].shape == (30 + CAPTION, 60, 3)
    assert not np.array_equal(frames[0][:CAPTION], frames[1][:CAPTION]), "the step is written above"


def test_confusion_counts_are_logged_as_a_table():
    class Classifier(Painter):
        code_counts = None

        def confusion_counts(self):
            return torch.tensor([[5, 0], [2, 3]])

    fit(Classifier(), SampleGrid(), logger=tensorboard_logger("log"))
    tables = read_tensorboard("log/tensorboard").Tensors("samples/confusion_counts/text_summary")
    text = tables[-1].tensor_proto.string_val[0].decode()
    assert text.splitlines()[2:] == ["| 0 | 0 | 5 |", "| 1 | 0 | 2 |", "| 1 | 1 | 3 |"]


def test_files_are_written_by_validate_and_not_by_test():
    class Silent(Painter):
        example_images = code_counts = None

    run = trainer(SampleGrid(), default_root_dir=".")
    run.test(Painter(), loader(6), verbose=False)
    run.validate(Silent(), loader(6), verbose=False)
    assert not Path("samples").exists()
    run.validate(Painter(), loader(6), verbose=False)
    assert written() == ["codes_000000.png", "step_000000.png"]
