import numpy as np
import pytest
import torch

from tests.helpers.refusal import refused
from vqlab.data.images.arrays import ImageArrays
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


X, Y = pixels(12, 8, 8, 3), np.arange(12, dtype=np.uint8) % 4
GREY = X[..., 0]


@pytest.mark.parametrize(
    ("arrays", "sizes"),
    [
        ({"train_images": X, "train_labels": Y[:, None], "val_images": X[:6], "val_labels": Y[:6, None],
          "test_images": X[:4], "test_labels": Y[:4, None]}, (12, 6, 4)),  # MedMNIST
        ({"x_train": GREY, "y_train": Y, "x_test": GREY[:4], "y_test": Y[:4]}, (11, 1, 4)),  # Keras
        ({"X_train": GREY, "Y_train": Y, "X_valid": GREY[:5], "Y_valid": Y[:5]}, (12, 5, 0)),
        ({"x": X, "y": Y, "x_test": X[:4], "y_test": Y[:4]}, (11, 1, 4)),
        ({"arr_0": X, "arr_1": Y}, (11, 1, 0)),
        ({"arr_0": Y, "arr_1": X}, (11, 1, 0)),
        ({"x": X, "y": np.eye(4, dtype=np.float32)[Y]}, (11, 1, 0)),
        ({"x": X, "y": Y[:, None]}, (11, 1, 0)),
    ],
)  # fmt: skip
def test_arrays_as_others_write_them(tmp_path, arrays, sizes):
    data = ImageArrays(save(tmp_path, **arrays), batch_size=1)
    assert data.num_classes == 4
    data.setup()
    assert (*(len(part) for part in data._train_val), len(data._test or ())) == sizes
    assert data.train_size == sizes[0]
    images = arrays.get("x", arrays.get("train_images", X if "arr_0" in arrays else GREY))
    labels = {image.tobytes(): int(label) for image, label in zip(images, Y, strict=True)}
    for part in filter(None, (*data._train_val, data._test)):
        stored = part.images.permute(0, 2, 3, 1).squeeze(-1).numpy()
        assert [labels[image.tobytes()] for image in stored] == part.labels.tolist()


def test_arrays_may_be_named(tmp_path, caplog):
    path = save(tmp_path, a=X, b=X, digits=Y, x_test=X[:4], y_test=Y[:4] % 2)
    with refused("holds no images for training, but x_test", "array=x_test"):
        ImageArrays(path)
    data = ImageArrays(path, array="b")
    assert (data.num_classes, data.train_size, data.load_test()) == (0, 11, None)
    assert "digits beside the images b, not read as labels: set label_array=digits" in caplog.text
    assert ImageArrays(path, array="b", label_array="digits").num_classes == 4
    assert ImageArrays(path, array="x_test").num_classes == 2
    with refused("array c is not in", "which holds a, b, digits"):
        ImageArrays(path, array="c")
    with refused("label_array c is not in"):
        ImageArrays(path, array="a", label_array="c")


def test_labels_of_no_class_in_training_are_refused(tmp_path):
    with refused("y_test of", "class 3", "classes 0 to 1"):
        ImageArrays(save(tmp_path, x_train=X, y_train=Y % 2, x_test=X, y_test=Y))
    with refused("y of", "test.npz holds class 3"):
        ImageArrays(save(tmp_path, x=X, y=Y % 2), test_path=save(tmp_path, "test.npz", x=X, y=Y))


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
    with pytest.raises(UserError, match=r"20 x 30 pixels, not square: set image_size=20"):
        ImageArrays(path)
    assert next(iter(ImageArrays(path, image_size=16, batch_size=2).train_dataloader()))["image"].shape[-2:] == (16, 16)


def test_test_split(tmp_path):
    path, test = save(tmp_path, x=pixels(10, 8, 8, 3)), save(tmp_path, "test.npz", x=pixels(6, 8, 8, 3))
    assert len(ImageArrays(path, test_path=test).test_dataloader().dataset) == 6
    with pytest.raises(UserError, match=r"no test images: set test_path=FILE"):
        ImageArrays(path).test_dataloader()
    grey = save(tmp_path, "grey.npz", x=pixels(6, 8, 8))
    with pytest.raises(UserError, match=r"shape \(8, 8\).*use images of the same shape"):
        ImageArrays(path, test_path=grey)
    with pytest.raises(UserError, match=r"none.npz is not a file: set test_path=FILE"):
        ImageArrays(path, test_path="none.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": pixels(4, 8, 8) / 255}, r"x of .* is float64, not uint8: save .* \(x \* 255\).round\(\)"),
        ({"x": np.array([{}] * 4, dtype=object)}, "is object, not uint8"),
        ({"x": pixels(4, 64)}, r"shape \(4, 64\), not \(N, H, W\)"),
        ({"x": pixels(0, 8, 8)}, r"shape \(0, 8, 8\), not"),
        ({"x": pixels(4, 8, 8, 4)}, r"shape \(4, 8, 8, 4\), not .*\(N, H, W, 3\)"),
        ({"x": pixels(4, 3, 8, 8)}, r"shape \(4, 3, 8, 8\), not .*\(N, H, W, 3\)"),
        ({"x": pixels(1, 8, 8)}, "1 image.* too few to keep 1 for validation"),
        ({"x": pixels(4, 8, 8), "y": np.arange(3)}, r"y of .* has shape \(3,\), but there are 4 images"),
        ({"x": pixels(4, 8, 8), "y": np.arange(4.0)}, "float64, not integer"),
        ({"x": pixels(4, 8, 8), "y": np.arange(4) - 3}, "holds -3"),
        ({"x": pixels(4, 8, 8), "y": np.ones((4, 3), int)}, r"y of .* has shape \(4, 3\) and is not one-hot"),
        ({"x": pixels(4, 8, 8), "y": np.array(list("abcd"))}, "U1, not integer"),
        ({"a": pixels(4, 8, 8), "b": pixels(4, 8, 8), "arr_0": np.arange(4)}, "set array=NAME to one of these"),
        ({"a": pixels(4, 8, 8), "b": pixels(4, 8, 8)}, "no array x, images or image, .* but a, b"),
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
    with pytest.raises(UserError, match=r"cannot be read as NumPy arrays: save it again"):
        ImageArrays(str(tmp_path / name))


def test_a_header_of_a_negative_size_is_refused(tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"shape": (-1, 8, 8), "fortran_order": False, "descr": "|u1"})
    with pytest.raises(UserError, match=r"has shape \(-1, 8, 8\)"):
        ImageArrays(str(tmp_path / "a.npy"))


def test_truncated_file_is_named(tmp_path):
    path = save(tmp_path, x=pixels(50, 8, 8))
    whole = (tmp_path / "some.npz").read_bytes()
    (tmp_path / "some.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cannot be read"):
        ImageArrays(path).setup("fit")
