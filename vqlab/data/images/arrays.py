"""Images from NumPy files (.npz or .npy)."""

import logging
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from numpy.lib import format as npy

from vqlab.data.datamodule import ValFraction, draw_splits
from vqlab.data.files import reading
from vqlab.data.images.base import ImageDataModule, ImageTensors, fit_square
from vqlab.data.split_folders import SPLIT_OF
from vqlab.errors import UserError
from vqlab.validation import Count

IMAGE_NAMES = ("x", "images", "image", "imgs", "img", "data")
LABEL_NAMES = ("y", "labels", "label", "targets", "target")
UNREADABLE = "cannot be read as NumPy arrays: save it again, or use another file"

log = logging.getLogger(__name__)


Header = tuple[tuple[int, ...], np.dtype]  # shape and dtype, known without reading the array


class Arrays(NamedTuple):
    """The names of a split's arrays in a file; the array of a ``.npy`` file has the name ''."""

    images: str
    labels: str | None


class ImageArrays(ImageDataModule):
    """Images of one or two NumPy files, in memory.

    A ``.npz`` file holds the images under ``x``, ``images``, ``image``, ``imgs``, ``img`` or ``data`` (or as its only
    array of a fitting shape), and the labels, if any, under ``y``, ``labels``, ``label``, ``targets`` or ``target``.
    With a split in the names (``x_train``, ``y_train``, ``test_images``, ...: Keras, MedMNIST) the arrays are the
    splits; without one for validation a part of the training images is used. Arrays that ``np.savez(FILE, x, y)`` saves
    without names are read, too. A ``.npy`` file holds images alone. Pickled objects are not read. The constructor reads
    headers and labels, ``setup`` the images.

    Args:
        path: File with the images for training and validation.
        test_path: File with the test images, of the same shape. Default: those of ``path``.
        array: Name of the array with the images. Default: one of those above.
        label_array: Name of the array with the labels. Default: one of those above.
        val_fraction: Fraction of the training images for validation, if there are no validation images.
        image_size: Height and width to resize and crop to; null keeps the size, which then must be square.
        **common: Arguments of :class:`~vqlab.data.images.base.ImageDataModule`.

    Shape:
        Images (N, H, W) or (N, H, W, C) uint8 with C = 1 or 3, labels (N,) or (N, 1) integers, -1 where unknown, or
        one-hot (N, classes).

    Raises:
        UserError: If a file is missing or unreadable, or its arrays have another dtype or shape.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/grey.npz"
        >>> np.savez(path, x=np.zeros((20, 8, 8), np.uint8), y=np.arange(20) % 4)
        >>> data = ImageArrays(path, batch_size=4)
        >>> data.channels, data.image_size, data.num_classes, data.train_size
        (1, 8, 4, 19)
    """

    test_mend = "set test_path=FILE, or use `vqlab validate`"

    def __init__(
        self,
        path: str,
        test_path: str | None = None,
        array: str | None = None,
        label_array: str | None = None,
        val_fraction: ValFraction = 0.05,
        image_size: Count | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.path, self.test_path = path, test_path
        found = find_arrays(path, "path", array, label_array)
        pool = "train" if "train" in found else ""
        if pool not in found:
            names = ", ".join(arrays.images for arrays in found.values())
            raise UserError(
                f"{path} holds no images for training, but {names}: use another path, or set "
                f"array={names.split(', ')[0]} to train on these"
            )
        self._sources = {split or "train": (path, arrays) for split, arrays in found.items()}
        if test_path is not None:
            held_out = find_arrays(test_path, "test_path", array, label_array)
            self._sources["test"] = (test_path, held_out.get("test") or next(iter(held_out.values())))
        shape, labels = check_arrays(path, found[pool])
        height, width = shape[1:3]
        if image_size is None and height != width:
            raise UserError(
                f"the images of {path} are {height} x {width} pixels, not square: "
                f"set image_size={min(height, width)} to resize and crop them"
            )
        self.channels = shape[3] if len(shape) == 4 else 1
        self.image_size = image_size or height
        self._drawn = {"train": torch.arange(shape[0])}
        if "val" not in self._sources:
            self._drawn = draw_splits(shape[0], val_fraction, 0, self.seed, "image", f": use another file than {path}")
        self.train_size = len(self._drawn["train"])
        self.num_classes = 0 if labels is None else max(0, int(labels.max()) + 1)
        for split in self._sources.keys() - {"train"}:
            self._check_like_training(split, shape)

    def load_train_val(self) -> tuple[ImageTensors, ImageTensors]:
        """Return the training and the validation images."""
        whole = self._read("train")
        if "val" in self._sources:
            return whole, self._read("val")
        train, val = map(whole.part, self._drawn.values())
        return train, val

    def load_test(self) -> ImageTensors | None:
        """Return the test images, if there are any."""
        return self._read("test") if "test" in self._sources else None

    def load_all(self) -> ImageTensors | None:
        """Return all images of a file that has no other split."""
        return self._read("train") if set(self._sources) == {"train"} else None

    def _check_like_training(self, split: str, train: tuple[int, ...]) -> None:
        path, arrays = self._sources[split]
        shape, labels = check_arrays(path, arrays)
        channels = shape[3] if len(shape) == 4 else 1
        if channels != self.channels or (shape[1:3] != train[1:3] and shape[1] != shape[2]):
            raise UserError(
                f"the {split} images of {path} have shape {shape[1:]}, those for training {train[1:]}: "
                "use images of the same shape"
            )
        if self.num_classes and labels is not None and labels.max() >= self.num_classes:
            raise UserError(
                f"{arrays.labels} of {path} holds class {labels.max()}, but the training images have the classes 0 to "
                f"{self.num_classes - 1}: use images of the same classes"
            )

    def _read(self, split: str) -> ImageTensors:
        path, arrays = self._sources[split]
        images = torch.from_numpy(read_array(path, arrays.images))
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
        labels = None if arrays.labels is None else torch.from_numpy(read_labels(path, arrays.labels, len(images)))
        return ImageTensors(fit_square(images.contiguous(), self.image_size), labels)


def find_arrays(path: str, setting: str, array: str | None, label_array: str | None) -> dict[str, Arrays]:
    """Return the names of the arrays of each split, of the split "" if their names state none.

    Raises:
        UserError: If the file cannot be read, or it is not clear which array holds the images.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} is not a file: set {setting}=FILE to a .npz or .npy file")
    headers = read_headers(path)
    for argument, name in (("array", array), ("label_array", label_array)):
        if name is not None and name not in headers:
            names = ", ".join(headers) if "" not in headers else "one array without a name"
            raise UserError(f"{argument} {name} is not in {path}, which holds {names}")
    images, labels = by_split(headers, IMAGE_NAMES), by_split(headers, LABEL_NAMES)
    if array is not None:
        split = next((split for split, name in images.items() if name == array), "")
        images = {"": array}
        labels = {"": labels[split]} if split in labels else {}
    elif not images:
        taken = {label_array, *labels.values()}
        fitting = [key for key, (shape, _) in headers.items() if len(shape) in (3, 4) and key not in taken]
        if len(fitting) != 1:
            raise UserError(
                f"{path} has no array x, images or image, and not exactly one of a fitting shape, but "
                f"{', '.join(headers) or 'nothing'}: set array=NAME to one of these, or use another file"
            )
        images = {"": fitting[0]}
    pool = "train" if "train" in images else ""
    if pool:
        images.pop("", None)
    if label_array is not None:
        labels[pool] = label_array
    elif pool in images and pool not in labels:
        others = {key: header for key, header in headers.items() if key not in labels.values()}
        labels |= guess_labels(path, others, pool, images[pool])
    return {split: Arrays(name, labels.get(split)) for split, name in images.items()}


def by_split(names: Iterable[str], usual: tuple[str, ...]) -> dict[str, str]:
    """Return split -> name of the usual names, which may hold the name of a split (else it is "").

    Example:
        >>> by_split(["X_train", "y_train", "test_images", "other"], ("x", "images"))
        {'train': 'X_train', 'test': 'test_images'}
    """
    found: dict[str, str] = {}
    for wanted in usual:
        for name in names:
            words = re.findall("[a-z]+", name.lower())
            splits = {SPLIT_OF[word] for word in words if word in SPLIT_OF}
            if len(splits) <= 1 and [word for word in words if word not in SPLIT_OF] == [wanted]:
                found.setdefault("".join(splits), name)
    return found


def guess_labels(path: str, headers: dict[str, Header], split: str, images: str) -> dict[str, str]:
    """Return the labels among arrays that ``np.savez`` named by position; warn where others may hold labels."""
    count = headers[images][0][:1]
    others = [key for key, (shape, _) in headers.items() if key != images and shape[:1] == count and len(shape) < 3]
    if len(others) == 1 and {others[0], images} == {"arr_0", "arr_1"}:
        return {split: others[0]}
    if others:
        log.warning(
            f"{path} holds {', '.join(others)} beside the images {images}, not read as labels: set "
            f"label_array={others[0]} if they are"
        )
    return {}


def check_arrays(path: str, arrays: Arrays) -> tuple[tuple[int, ...], np.ndarray | None]:
    """Return the shape of a split's images and its labels; raise UserError if a dtype or shape is wrong."""
    shape, dtype = read_headers(path)[arrays.images]
    what = f"{arrays.images} of {path}" if arrays.images else path
    if dtype != np.uint8:
        raise UserError(
            f"{what} is {dtype}, not uint8: save x.astype('uint8') of values 0 to 255, as (x * 255).round()"
        )
    if len(shape) not in (3, 4) or shape[3:] not in ((), (1,), (3,)) or min(shape) < 1:
        raise UserError(f"{what} has shape {shape}, not (N, H, W), (N, H, W, 1) or (N, H, W, 3): save it so")
    return shape, None if arrays.labels is None else read_labels(path, arrays.labels, shape[0])


def read_labels(path: str, key: str, count: int) -> np.ndarray:
    """Return the class numbers of ``count`` images, (N,) int64, of an array (N,), (N, 1) or one-hot (N, classes)."""
    shape, dtype = read_headers(path)[key]
    one_hot = len(shape) == 2 and shape[1] != 1
    if shape[:1] != (count,) or len(shape) > 2:
        raise UserError(f"{key} of {path} has shape {shape}, but there are {count} images: save one label each")
    if dtype.kind not in ("iufb" if one_hot else "iub"):
        raise UserError(f"{key} of {path} is {dtype}, not integer: save class numbers from 0 on")
    labels = read_array(path, key)
    if one_hot:
        if not (np.isin(labels, (0, 1)).all() and (labels.sum(1) == 1).all()):
            raise UserError(f"{key} of {path} has shape {shape} and is not one-hot: save one class number each")
        return labels.argmax(1).astype(np.int64)
    if labels.min() < -1:
        raise UserError(f"{key} of {path} holds {labels.min()}: save class numbers from 0 on, -1 where unknown")
    return labels.reshape(count).astype(np.int64)


def read_headers(path: str) -> dict[str, Header]:
    """Return name -> header for the arrays of a file; the array of a ``.npy`` file has the name ''."""
    headers = {}
    with reading(path, UNREADABLE):
        if not zipfile.is_zipfile(path):
            with open(path, "rb") as file:
                return {"": _read_header(file)}
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".npy"):
                    with archive.open(name) as file:
                        headers[name.removesuffix(".npy")] = _read_header(file)
    return headers


def read_array(path: str, key: str) -> np.ndarray:
    """Return one array of a file; pickled objects are refused."""
    with reading(path, UNREADABLE):
        loaded = np.load(path, allow_pickle=False)
        return loaded if key == "" else loaded[key]


def _read_header(file: IO[bytes]) -> Header:
    read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype
