import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.refusal import refused
from vqlab.data import files
from vqlab.data.images import folder as image_folder
from vqlab.data.images.folder import ImageFolder, decode_square
from vqlab.errors import UserError


def paint(path, colour=(200, 100, 50), size=(12, 10), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def folder(path, **arguments):
    return ImageFolder(str(path), **{"image_size": 8, "num_workers": 0, "batch_size": 2, **arguments})


def test_all_formats_and_unicode_names_give_rgb_squares_and_hidden_files_are_left_out(tmp_path):
    for number, name in enumerate(["猫.png", "ä b.jpg", "x.JPEG", "deep/er/c.bmp", "d.webp", "e.tif", "f.gif"]):
        paint(tmp_path / name, size=(12 + number, 20 - number))
    paint(tmp_path / "alpha.png", (200, 100, 50, 128), mode="RGBA")
    for hidden in ("notes.txt", "._猫.png", ".ipynb_checkpoints/2.png", "__MACOSX/cat/1.png", ".git/test/1.png"):
        (tmp_path / hidden).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / hidden).write_bytes(b"no image")
    data = folder(tmp_path, val_fraction=0.25, value_range="unit")
    data.setup("fit")
    images = torch.cat([batch["image"] for batch in [*data.train_dataloader(), *data.val_dataloader()]])
    assert images.shape == (8, 3, 8, 8)
    assert (images.mean((2, 3)) - torch.tensor([200, 100, 50]) / 255).abs().max() < 0.05


def test_classes_are_first_level_folders_in_order_of_their_names(tmp_path):
    for name in ("b/1.png", "b/deep/2.png", "a/1.png", "a/2.png", "root.png"):
        paint(tmp_path / name)
    data = folder(tmp_path)
    data.setup("fit")
    labels = {}
    for part in data._train_val:
        names = [str(file).removeprefix(f"{tmp_path}/") for file in part.files]
        labels.update(zip(names, part.labels.tolist(), strict=True))
    assert labels == {"b/1.png": 1, "b/deep/2.png": 1, "a/1.png": 0, "a/2.png": 0, "root.png": -1}
    assert (data.num_classes, folder(tmp_path / "a").num_classes) == (2, 0)


def test_split_folders_are_the_splits(tmp_path):
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for name in ("cat", "dog"):
            for number in range(count):
                paint(tmp_path / split / name / f"{number}.png")
    data = folder(tmp_path)
    data.setup()
    assert [len(part) for part in (*data._train_val, data._test)] == [data.train_size, 4, 2] == [6, 4, 2]
    assert data._test.labels.tolist() == [0, 1]
    paint(tmp_path / "val" / "horse" / "1.png")
    with refused("val holds horse, no class of the training images"):
        folder(tmp_path).setup("fit")


@pytest.mark.parametrize(
    "layout", [["train", "test"], ["Train", "VALID", "Testing"], ["training", "validation"], ["train2017", "val2017"]]
)
def test_no_image_of_a_held_out_folder_is_trained_on(tmp_path, layout):
    for number, split in enumerate(layout):
        for name in ("cat/1", "cat/2", "dog/1", "dog/2"):
            paint(tmp_path / split / f"{name}.png", (100 * number, 0, 0))
    data = folder(tmp_path, batch_size=1, value_range="unit")
    assert data.classes == ["cat", "dog"]
    data.setup("fit")
    assert {file.split("/")[-3] for file in data._train_val[0].files.tolist()} == {layout[0]}
    assert max(batch["image"].max() for batch in data.train_dataloader()) == 0
    assert data.train_size == (4 if len(layout) == 3 or "val" in layout[1] else 3)
    assert (data._test is not None) == ("est" in layout[-1])


def test_a_split_folder_within_one_of_its_name_has_the_classes(tmp_path):
    for split in ("seg_train", "seg_test"):
        for name in ("cat/1", "cat/2", "dog/1"):
            paint(tmp_path / split / split / f"{name}.png")
    data = folder(tmp_path)
    data.setup("test")
    assert (data.classes, data._test.labels.tolist()) == (["cat", "dog"], [0, 0, 1])


def test_corrupt_files_are_named_or_left_out(tmp_path, caplog):
    for number in range(12):
        paint(tmp_path / f"{number:02}.png", size=(50, 50))
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.webp").write_text("no image")
    with refused("cannot be decoded (", "remove them or set skip_corrupt=true"):
        folder(tmp_path, val_fraction=0.5, seed=3).setup("fit")
    data = folder(tmp_path, val_fraction=0.5, seed=3, skip_corrupt=True)
    with caplog.at_level("WARNING"):
        data.setup("fit")
    assert sum(map(len, data._train_val)) == 12
    assert all(name in caplog.text for name in ("cut.png", "empty.jpg", "text.webp"))
    careless = folder(tmp_path, val_fraction=0.5, seed=3, verify=False)
    with refused("remove it, or set skip_corrupt=true"):
        list(careless.train_dataloader()) + list(careless.val_dataloader())


def test_only_five_corrupt_files_are_listed_and_none_sound_is_an_error(tmp_path):
    for number in range(8):
        (tmp_path / f"{number}.png").touch()
    for options in ({}, {"skip_corrupt": True}):
        with pytest.raises(UserError, match=r"^7 of 7 images .*, \.\.\.\)") as error:
            folder(tmp_path, val_fraction=0.1, **options).setup("fit")
        assert str(error.value).count(".png") == 5


def test_many_files_show_progress(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "MANY", 2)
    for number in range(4):
        paint(tmp_path / f"{number}.png")
    folder(tmp_path, val_fraction=0.25).setup("fit")
    assert "verified 3 of 3 images" in capsys.readouterr().err


def test_links_are_followed_and_loops_end(tmp_path):
    for name in ("real/1.png", "real/2.png", "elsewhere/3.png"):
        paint(tmp_path / name)
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "linked").symlink_to(tmp_path / "elsewhere")
    assert folder(tmp_path / "real").train_size == 2


RAMP = np.tile(np.linspace(0, 1, 8, dtype=np.float32), (8, 1))


def png_of_16_bits(path, pixels, colour):
    """Write what PIL cannot: a PNG with 16 bits a channel; ``colour`` is the format's number for its channels."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)), (b"IDAT", zlib.compress(rows)))
    content = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (*chunks, (b"IEND", b""))
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("float.tif", RAMP),
        ("float.tif", RAMP.clip(1e-6) - 2e-6),
        ("deep.png", (RAMP * 65535).astype(np.uint16)),
        ("int.tif", (RAMP * 65535).astype(np.int32)),
        ("bits.png", RAMP > 0.5),
        ("deep.pgm", (RAMP * 65535).astype(np.uint16)),
    ],
)
def test_the_range_of_the_format_becomes_0_to_255(tmp_path, name, values):
    Image.fromarray(values).save(tmp_path / name)
    image = decode_square(tmp_path / name, 8, 1)[0].float() / 255
    expected = torch.from_numpy(RAMP > 0.5).float() if values.dtype == bool else torch.from_numpy(RAMP)
    torch.testing.assert_close(image, expected, atol=1 / 255, rtol=0)
    Image.fromarray(np.zeros_like(values)).save(tmp_path / name)
    assert decode_square(tmp_path / name, 8, 1).max() == 0, "what is black is black in any range"


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("float.tif", RAMP * 255, "from 0 to 255, not from 0 to 1 "),
        ("float.tif", RAMP - 0.5, "from -0.5 to 0.5"),
        ("float.tif", RAMP / 100, "from 0 to 0.01, not from 0 to 1 with some above a quarter"),
        ("float.tif", np.where(RAMP == 0, np.nan, RAMP), "from nan to nan"),
        ("float.tif", np.where(RAMP == 0, np.inf, RAMP), "to inf"),
        ("bits12.png", (RAMP * 4095).astype(np.uint16), "from 0 to 4095, not from 0 to 65535 "),
        ("bits14.png", (RAMP * 16383).astype(np.uint16), "from 0 to 16383"),
        ("bits8.tif", (RAMP * 255).astype(np.int32), "from 0 to 255, not from 0 to 65535 "),
        ("bits32.tif", (RAMP * 2e9).astype(np.int32), "to 2e+09"),
        ("signed.tif", (RAMP * 65535 - 1000).astype(np.int32), "from -1000 to"),
    ],
)
def test_values_of_no_certain_range_are_refused(tmp_path, name, values, words):
    Image.fromarray(values.astype(np.float32) if values.dtype == np.float64 else values).save(tmp_path / name)
    for channels in (1, 3):
        with refused(name, words, "scale all images alike"):
            decode_square(tmp_path / name, 8, channels)


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_the_same_holds_of_colour_with_16_bits(tmp_path, colour, channels):
    full = np.repeat(65535 * RAMP[:, :, None], channels, 2)
    full[:, :, 3 if channels == 4 else channels :] = 65535
    png_of_16_bits(tmp_path / "full.png", full, colour)
    torch.testing.assert_close(
        decode_square(tmp_path / "full.png", 8)[0], torch.from_numpy(RAMP * 255).byte(), atol=1, rtol=0
    )
    dark = full.copy()
    dark[:, :, : 1 if channels == 2 else 3] /= 16
    png_of_16_bits(tmp_path / "dark.png", dark, colour)
    with refused("dark.png", "from 0 to 3840, not from 0 to 65535"):
        decode_square(tmp_path / "dark.png", 8)


def test_images_of_no_certain_range_are_found_before_training(tmp_path):
    for number in range(4):
        Image.fromarray((RAMP * 4095).astype(np.uint16)).save(tmp_path / f"{number}.png")
    with refused(".png holds values from 0 to 4095"):
        folder(tmp_path, val_fraction=0.25, skip_corrupt=True).setup("fit")


def test_an_image_that_loads_but_does_not_convert_is_left_out(tmp_path, caplog):
    for name in ("train/1.png", "train/2.png", "val/1.png"):
        paint(tmp_path / name)
    Image.new("RGB", (12, 10)).convert("LAB").save(tmp_path / "train" / "lab.tif")
    with refused("1 of 3 images cannot be decoded", "lab.tif"):
        folder(tmp_path, channels=1).setup("fit")
    data = folder(tmp_path, channels=1, skip_corrupt=True)
    assert len(list(data.train_dataloader())) == 1
    assert "lab.tif" in caplog.text


@pytest.mark.parametrize("verify", [True, False])
def test_short_memory_is_not_called_damage(tmp_path, monkeypatch, verify):
    for number in range(4):
        paint(tmp_path / f"{number}.png")

    def out_of_memory(*_):
        raise MemoryError

    monkeypatch.setattr(image_folder, "decode_square", out_of_memory)
    with refused("not enough memory to read", ".png"):
        data = folder(tmp_path, verify=verify, skip_corrupt=verify)
        data.setup("fit")
        next(iter(data.train_dataloader()))


def test_images_are_turned_as_exif_says(tmp_path):
    turned = Image.new("RGB", (8, 16), "black")
    turned.paste("white", (0, 0, 8, 8))  # white above
    exif = turned.getexif()
    exif[0x0112] = 3  # shot upside down
    turned.save(tmp_path / "turned.png", exif=exif)
    assert decode_square(tmp_path / "turned.png", 16)[0, :4].max() == 0, "black above"
    deep = Image.fromarray(np.repeat(np.uint16([[40_000], [0]]), 8, 0).repeat(16, 1))
    deep.save(tmp_path / "deep.png", exif=exif)
    assert decode_square(tmp_path / "deep.png", 16, 1)[0, :, 0].tolist() == [0] * 8 + [40_000 >> 8] * 8


def test_standardized_takes_the_training_images(tmp_path):
    for number in range(10):
        paint(tmp_path / f"{number}.png", (number * 20, 100, 255))
    data = folder(tmp_path, value_range="standardized", val_fraction=0.1)
    assert data.pixel_range.mean[1:] == (round(100 / 255, 4), 1.0)
    assert min(data.pixel_range.std) > 0


def test_grey_and_workers(tmp_path):
    for number in range(6):
        paint(tmp_path / f"{number}.png")
    data = folder(tmp_path, channels=1, num_workers=2)
    assert [batch["image"].shape for batch in data.train_dataloader()] == [(2, 1, 8, 8)] * 2
    assert 1 <= ImageFolder(str(tmp_path)).num_workers <= 4
