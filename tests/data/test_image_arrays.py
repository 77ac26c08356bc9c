import numpy as np
import pytest
import torch

from vqlab.data.image_arrays import ImageArrays
from vqlab.errors import UserError


def pixels(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def save(tmp_path, name="some.npz", **arrays):
    np.savez(tmp_path / name, **arrays)
    return str(tmp_path / name)


@pytest.mark.parametrize(("images", "labels"), [("x", "y"), ("images", "labels"), ("image", "label")])
def test_images_and_labels_arrive_in_order_of_their_file(tmp_path, images, labels):
    x, y = pixels(40, 8, 8, 3), np.arange(40) % 7
    path = save(tmp_path, **{images: x, labels: y, "other": pixels(40, 2, 2)})
    data = ImageArrays(path, value_range="unit", val_fraction=0.25, batch_size=5)
    assert (data.channels, data.image_size, data.num_classes, data.train_size) == (3, 8, 7, 30)
    train, val = data.load_train_val()
    assert len(val) == 10
    rows = {row.tobytes(): label for row, label in zip(x.transpose(0, 3, 1, 2), y, strict=True)}
    for part in (train, val):
        assert [rows.pop(image.numpy().tobytes()) for image in part.images] == part.labels.tolist()
    assert not rows, "each image is in one split"
    batch = next(iter(data.train_dataloader()))
    torch.testing.assert_close(batch["image"], train.images[batch["index"]] / 255)
    assert torch.equal(batch["label"], train.labels[batch["index"]])


def test_npy_and_a_single_fitting_array(tmp_path):
    np.save(tmp_path / "a.npy", pixels(10, 8, 8))
    data = ImageArrays(str(tmp_path / "a.npy"), batch_size=4)
    assert (data.channels, data.num_classes) == (1, 0)
    assert next(iter(data.train_dataloader()))["label"].tolist() == [-1] * 4
    assert ImageArrays(save(tmp_path, pictures=pixels(10, 8, 8), size=np.arange(10))).image_size == 8


def test_constructor_reads_headers_only(tmp_path, monkeypatch):
    path = save(tmp_path, x=pixels(10, 8, 8))
    monkeypatch.setattr(np, "load", None)
    assert ImageArrays(path).train_size == 9


def test_rectangles_need_a_size(tmp_path):
    path = save(tmp_path, x=pixels(10, 20, 30, 3))
    with pytest.raises(UserError, match=r"20 x 30 pixels, not square: set --data.image_size=20"):
        ImageArrays(path)
    assert next(iter(ImageArrays(path, image_size=16, batch_size=2).train_dataloader()))["image"].shape[-2:] == (16, 16)


def test_test_split(tmp_path):
    path, test = save(tmp_path, x=pixels(10, 8, 8, 3)), save(tmp_path, "test.npz", x=pixels(6, 8, 8, 3))
    assert len(ImageArrays(path, test_path=test).test_dataloader().dataset) == 6
    with pytest.raises(UserError, match=r"no test images: set --data.test_path"):
        ImageArrays(path).test_dataloader()
    grey = save(tmp_path, "grey.npz", x=pixels(6, 8, 8))
    with pytest.raises(UserError, match=r"shape \(8, 8\).*set --data.test_path"):
        ImageArrays(path, test_path=grey)
    with pytest.raises(UserError, match=r"none.npz is not a file: set --data.test_path"):
        ImageArrays(path, test_path="none.npz")


NAN = np.full((4, 8, 8), np.nan, np.float32)
OBJECTS = np.array([{}] * 4, dtype=object)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": pixels(4, 8, 8) / 255}, r"x of .* is float64, not uint8: for values in \[0, 1\] save \(x \* 255\)"),
        ({"x": NAN}, r"float32 with 256 NaN \(not a number\)"),
        ({"x": pixels(4, 8, 8, dtype=np.int64)}, "int64, not uint8: scale"),
        ({"x": pixels(4, 64)}, r"shape \(4, 64\), not \(N, H, W\)"),
        ({"x": pixels(0, 8, 8)}, r"is empty, its shape is \(0, 8, 8\)"),
        ({"x": pixels(1, 8, 8)}, "too few to split"),
        ({"x": pixels(4, 8, 8, 4)}, "alpha channel: drop it"),
        ({"x": pixels(4, 3, 8, 8)}, r"move the channels last, x.transpose\(0, 2, 3, 1\)"),
        ({"x": pixels(4, 8, 8, 2)}, "keep 1 or 3 channels"),
        ({"x": OBJECTS}, "Python objects, which are not read"),
        ({"x": pixels(4, 8, 8), "y": np.arange(3)}, r"y of .* has shape \(3,\), but there are 4 images"),
        ({"x": pixels(4, 8, 8), "y": np.arange(4.0)}, "float64, not integer"),
        ({"x": pixels(4, 8, 8), "y": np.arange(4) - 3}, "holds -3"),
        ({"a": pixels(4, 8, 8), "b": pixels(4, 8, 8)}, "no array x, images or image, .* but a, b"),
        ({"a": np.arange(3)}, "no array x"),
        ({}, "no array x, .* but nothing"),
    ],
)
def test_bad_arrays_are_named_in_one_line(tmp_path, arrays, message):
    path = save(tmp_path, **arrays)
    with pytest.raises(UserError, match=message) as error:
        ImageArrays(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"not an array", b"\x93NUMPY\x01\x00"])
@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_damaged_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read as NumPy arrays: save it again, or set --data.path"):
        ImageArrays(str(tmp_path / name))


def test_a_header_that_promises_less_than_nothing(tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"shape": (-1, 8, 8), "fortran_order": False, "descr": "|u1"})
    with pytest.raises(UserError, match=r"its shape is \(-1, 8, 8\)"):
        ImageArrays(str(tmp_path / "a.npy"))


def test_truncated_file_is_named(tmp_path):
    path = save(tmp_path, x=pixels(50, 8, 8))
    whole = (tmp_path / "some.npz").read_bytes()
    (tmp_path / "some.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cannot be read"):
        ImageArrays(path).setup("fit")


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_val_fraction_is_checked(tmp_path, fraction):
    with pytest.raises(UserError, match=r"val_fraction must be between 0 and 1"):
        ImageArrays(save(tmp_path, x=pixels(4, 8, 8)), val_fraction=fraction)
