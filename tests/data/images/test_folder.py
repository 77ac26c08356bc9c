import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.refusal import refused
from vqlab.data.images.folder import ImageFolder, decode_square


def paint(path, colour=(200, 100, 50), size=(12, 10), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def folder(path, **arguments):
    return ImageFolder(str(path), **{"image_size": 8, "num_workers": 0, "batch_size": 2, **arguments})


def test_all_formats_become_rgb_squares_and_hidden_files_are_ignored(tmp_path):
    for number, name in enumerate(["猫.png", "ä b.jpg", "x.JPEG", "a/b/c.bmp", "d.webp", "e.tif", "f.gif"]):
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
    whole = data.load_all()
    labels = {file.removeprefix(f"{tmp_path}/"): label for file, label in zip(whole.files, whole.labels, strict=True)}
    assert labels == {"b/1.png": 1, "b/deep/2.png": 1, "a/1.png": 0, "a/2.png": 0, "root.png": -1}
    assert (data.num_classes, folder(tmp_path / "a").num_classes) == (2, 0)


def test_a_folder_that_holds_all_classes_is_ignored(tmp_path):
    for name in ("seg_train/seg_train/a/1", "seg_train/seg_train/b/2", "seg_test/seg_test/b/1", "seg_test/a/3"):
        paint(tmp_path / f"{name}.png")
    data = folder(tmp_path, val_fraction=0.5)
    data.setup()
    assert (data.classes, data._test.labels.tolist()) == (["a", "b"], [0, 1])


def test_split_folders_are_the_splits(tmp_path):
    for split, name in itertools.product(["train", "train", "val", "test"], ["cat", "dog"]):
        paint(tmp_path / split / name / f"{len(list(tmp_path.rglob('*.png')))}.png")
    data = folder(tmp_path)
    data.setup()
    assert [len(part) for part in (*data._train_val, data._test)] == [data.train_size, 2, 2] == [4, 2, 2]
    assert data._test.labels.tolist() == [0, 1]
    paint(tmp_path / "val" / "horse" / "1.png")
    with refused("val holds horse, not a class of the training images"):
        folder(tmp_path).setup("fit")


def test_corrupt_files_are_refused_or_left_out(tmp_path, caplog):
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    bad = {"cut.png": whole[: len(whole) // 2], "empty.jpg": b"", "text.webp": b"no image"}
    contents = {"bad": bad, "mixed": bad | {f"{number}.png": whole for number in range(12)}}
    for name, files in contents.items():
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_bytes(content)
    with refused("cannot be decoded (", "remove them or set skip_corrupt=true"):
        folder(tmp_path / "mixed", val_fraction=0.5, seed=3).setup("fit")
    data = folder(tmp_path / "mixed", val_fraction=0.5, seed=3, skip_corrupt=True)
    with caplog.at_level("WARNING"):
        data.setup("fit")
    assert sum(map(len, data._train_val)) == 12
    assert all(name in caplog.text for name in bad)
    with refused("of 2 images cannot be decoded"):
        folder(tmp_path / "bad", val_fraction=0.3, skip_corrupt=True).setup("fit")
    unverified = folder(tmp_path / "mixed", val_fraction=0.5, seed=3, verify=False)
    with refused("remove it, or set skip_corrupt=true"):
        list(unverified.train_dataloader()) + list(unverified.val_dataloader())


def test_links_are_followed_once(tmp_path):
    for name in ("real/1.png", "real/2.png", "elsewhere/3.png"):
        paint(tmp_path / name)
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "linked").symlink_to(tmp_path / "elsewhere")
    assert folder(tmp_path / "real").train_size == 2


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_images_with_more_than_8_bits_are_refused(tmp_path, dtype):
    for number in range(4):
        Image.fromarray(np.ones((8, 8), dtype)).save(tmp_path / f"{number}.tif")
    with refused(".tif has 16 or 32 bits per channel", "scale all images alike"):
        folder(tmp_path, val_fraction=0.25, skip_corrupt=True).setup("fit")


def test_images_are_rotated_by_their_exif_orientation(tmp_path):
    image = Image.new("RGB", (8, 16), "black")
    image.paste("white", (0, 0, 8, 8))  # the upper half
    exif = image.getexif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "image.png", exif=exif)
    assert decode_square(tmp_path / "image.png", 16)[0, :4].max() == 0, "the upper half is black"


def test_grey_images_are_decoded_in_workers(tmp_path):
    for number in range(6):
        paint(tmp_path / f"{number}.png")
    data = folder(tmp_path, channels=1, num_workers=2)
    assert [batch["image"].shape for batch in data.train_dataloader()] == [(2, 1, 8, 8)] * 2
    assert 1 <= ImageFolder(str(tmp_path)).num_workers <= 4
