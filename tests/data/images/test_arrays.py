import numpy as np
import pytest
import torch

from tests.helpers.refusal import refused
from vqlab.data import ImageArrays

RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (12, 8, 8, 3), np.uint8), np.arange(12, dtype=np.uint8) % 4
GREY = X[..., 0]


def save(tmp_path, name="some.npz", **arrays):
    np.savez(tmp_path / name, **arrays)
    return str(tmp_path / name)


@pytest.mark.parametrize(
    ("arrays", "sizes"),
    [
        ({"train_images": X, "train_labels": Y[:, None], "val_images": X[:6], "val_labels": Y[:6, None],
          "test_images": X[:4], "test_labels": Y[:4, None]}, (12, 6, 4)),  # MedMNIST
        ({"x_train": GREY, "y_train": Y, "x_test": GREY[:4], "y_test": Y[:4]}, (11, 1, 4)),  # Keras
        ({"X_train": GREY, "Y_train": Y, "X_valid": GREY[:5], "Y_valid": Y[:5]}, (12, 5, 0)),
        ({"x": X, "y": Y, "x_test": X[:4], "y_test": Y[:4], "other": np.array([{}])}, (11, 1, 4)),
        ({"image": X, "label": Y.astype(int)}, (11, 1, 0)),
        ({"arr_0": X, "arr_1": Y}, (11, 1, 0)),  # np.savez(file, X, Y)
    ],
)  # fmt: skip
def test_each_image_is_in_one_split_with_its_label(tmp_path, arrays, sizes):
    data = ImageArrays(save(tmp_path, **arrays), batch_size=1, value_range="unit")
    data.setup()
    parts = [*data._train_val, *([data._test] if data._test else [])]
    assert (*map(len, parts), 0)[:3] == sizes
    assert (data.num_classes, data.image_size, data.train_size) == (4, 8, sizes[0])
    stored = [part.images.permute(0, 2, 3, 1).squeeze(-1).numpy() for part in parts]
    images = X if data.channels == 3 else GREY
    labels = {image.tobytes(): int(label) for image, label in zip(images, Y, strict=True)}
    for part, pixels in zip(parts, stored, strict=True):
        assert [labels[image.tobytes()] for image in pixels] == part.labels.tolist()
    if "val" not in "".join(arrays).lower():
        assert sorted(map(bytes, np.concatenate(stored[:2]))) == sorted(map(bytes, images))
    batch = next(iter(data.train_dataloader()))
    torch.testing.assert_close(batch["image"], parts[0].images[batch["index"]] / 255)


def test_npy_files_and_rectangular_images(tmp_path):
    np.save(tmp_path / "a.npy", RNG.integers(0, 256, (10, 20, 30), np.uint8))
    with refused("20 x 30 pixels, not square: set image_size=20"):
        ImageArrays(str(tmp_path / "a.npy"))
    data = ImageArrays(str(tmp_path / "a.npy"), batch_size=4, image_size=16)
    assert (data.channels, data.num_classes, data.load_test(), len(data.load_all())) == (1, 0, None, 10)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 1, 16, 16)
    assert batch["label"].tolist() == [-1] * 4


def test_test_images_may_be_in_another_file(tmp_path):
    path, test = save(tmp_path, x=X), save(tmp_path, "test.npz", x=X[:6])
    assert len(ImageArrays(path, test_path=test).test_dataloader().dataset) == 6
    with refused("no test images: set test_path=FILE"):
        ImageArrays(path).test_dataloader()
    with refused("the test images have shape (1, 8, 8), the training images (3, 8, 8)"):
        ImageArrays(path, test_path=save(tmp_path, "grey.npz", x=GREY))
    with refused("none.npz is not a file: set test_path=FILE"):
        ImageArrays(path, test_path="none.npz")
    with refused("the test images have class 3, the training images only 0 to 1"):
        ImageArrays(save(tmp_path, x_train=X, y_train=Y % 2, x_test=X, y_test=Y))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": X / 255}, ["x of", "is float64, not uint8: save (x * 255).round()"]),
        ({"x": np.array([{}] * 4, dtype=object)}, ["cannot be read as NumPy arrays (Object arrays cannot be loaded"]),
        ({"x": X[:, 0, :, 0]}, ["shape (12, 8): save it as (N, H, W)"]),
        ({"x": X[:0]}, ["shape (0, 8, 8, 3): save it as"]),
        ({"x": X.transpose(0, 3, 1, 2)}, ["shape (12, 3, 8, 8): save it as", "(N, H, W, 3)"]),
        ({"x": X[:1]}, ["1 image", "too few to keep 1 for validation"]),
        ({"x": X, "y": Y[:3]}, ["y of", "of shape (3,) for 12 images"]),
        ({"x": X, "y": Y / 2}, ["float64", "one integer per image"]),
        ({"x": X, "y": Y.astype(int) - 3}, ["-1 if unknown"]),
        ({"a": X, "b": X}, ["no array x, images or image, but a, b: save the images as x"]),
        ({"x_test": X}, ["holds no training images: save them as x_train"]),
    ],
)
def test_bad_arrays_give_one_line(tmp_path, arrays, words):
    with refused(*words):
        ImageArrays(save(tmp_path, **arrays))


@pytest.mark.parametrize("content", [b"", b"not an array", b"\x93NUMPY\x01\x00", b"PK\x03\x04cut"])
def test_damaged_files_give_one_line(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with refused("a.npz cannot be read as NumPy arrays", "save it again"):
        ImageArrays(str(tmp_path / "a.npz"))
