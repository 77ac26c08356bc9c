"""Images from NumPy files (.npz or .npy)."""

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib import format as npy

from vqlab.data.images import (
    ImageDataModule,
    ImageTensors,
    count_val,
    fit_square,
)
from vqlab.data.splits import require_at_least, split_positions
from vqlab.errors import UserError

IMAGE_KEYS = ("x", "images", "image")
LABEL_KEYS = ("y", "labels", "label")


class Header(NamedTuple):
    """What is known of an array without reading it."""

    shape: tuple[int, ...]
    dtype: np.dtype


class ImageArrays(ImageDataModule):
    """Images of one or two NumPy files, in memory.

    A ``.npz`` file holds the images under ``x``, ``images`` or ``image`` (or as its only array of a fitting shape) and,
    if there are labels, those under ``y``, ``labels`` or ``label``. A ``.npy`` file holds images alone. Pickled objects
    are not read. The constructor reads headers and labels, ``setup`` the images.

    Args:
        path: File with the images for training and validation.
        test_path: File with the test images, of the same shape.
        val_fraction: Share of the images of ``path`` that is kept for validation.
        image_size: Height and width to resize and crop to; null keeps the size, which then must be square.
        **common: ``batch_size``, ``value_range``, ``augment``, ``labels_per_class``, ``num_workers``,
            ``seed``: see :class:`~vqlab.data.images.ImageDataModule`.

    Shape:
        Images (N, H, W) or (N, H, W, C) uint8 with C = 1 or 3, labels (N,) integers, -1 where unknown. Batches: see
        :class:`~vqlab.data.images.ImageDataModule`.

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

    test_mend = "set --data.test_path to a file, or use `vqlab validate`"

    def __init__(
        self,
        path: str,
        test_path: str | None = None,
        val_fraction: float = 0.05,
        image_size: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        require_at_least("image_size", 1 if image_size is None else image_size, 1, mend=32)
        shape, labels = check_arrays(path, "path")
        height, width = shape[1:3]
        if image_size is None and height != width:
            raise UserError(
                f"the images of {path} are {height} x {width} pixels, not square: "
                f"set --data.image_size={min(height, width)} to resize and crop them"
            )
        self.path = path
        self.test_path = test_path
        self.channels = shape[3] if len(shape) == 4 else 1
        self.image_size = image_size or height
        self.num_val = count_val(shape[0], val_fraction, path)
        self.train_size = shape[0] - self.num_val
        self.num_classes = 0 if labels is None else max(0, int(labels.max()) + 1)
        if test_path is not None:
            self._check_test(check_arrays(test_path, "test_path")[0], shape)

    def load_train_val(self) -> tuple[ImageTensors, ImageTensors]:
        """Return the two parts of ``path``."""
        whole = self._read(self.path)
        train, val = split_positions(len(whole), self.num_val, self.seed)
        return (
            ImageTensors(whole.images[train], whole.labels[train]),
            ImageTensors(whole.images[val], whole.labels[val]),
        )

    def load_test(self) -> ImageTensors | None:
        """Return the images of ``test_path``."""
        return None if self.test_path is None else self._read(self.test_path)

    def load_all(self) -> ImageTensors:
        """Return the images of ``path``."""
        return self._read(self.path)

    def _check_test(self, test_shape: tuple[int, ...], shape: tuple[int, ...]) -> None:
        channels = test_shape[3] if len(test_shape) == 4 else 1
        if channels != self.channels or (test_shape[1:3] != shape[1:3] and test_shape[1] != test_shape[2]):
            raise UserError(
                f"the images of {self.test_path} have shape {test_shape[1:]}, those of {self.path} {shape[1:]}: "
                "set --data.test_path to images of the same shape"
            )

    def _read(self, path: str) -> ImageTensors:
        image_key, label_key = pick_keys(read_headers(path, "path"))
        images = torch.from_numpy(read_array(path, image_key, "path"))
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
        labels = None if label_key is None else torch.from_numpy(read_array(path, label_key, "path").astype(np.int64))
        return ImageTensors(fit_square(images.contiguous(), self.image_size), labels)


def check_arrays(path: str, setting: str) -> tuple[tuple[int, ...], np.ndarray | None]:
    """Return the shape of a file's images, and its labels, or say what is wrong with them.

    Raises:
        UserError: Naming ``--data.<setting>`` and what to do.
    """
    headers = read_headers(path, setting)
    image_key, label_key = pick_keys(headers)
    if image_key not in headers:
        raise UserError(
            f"{path} has no array x, images or image, and not exactly one of a fitting shape, but "
            f"{', '.join(headers) or 'nothing'}: save it as np.savez(FILE, x=images, y=labels), "
            f"or set --data.{setting} to another file"
        )
    shape, dtype = headers[image_key]
    what = f"{image_key} of {path}" if image_key else path
    if dtype.hasobject:
        raise UserError(f"{what} holds Python objects, which are not read: save it as one uint8 array")
    if dtype != np.uint8:
        raise UserError(
            f"{what} is {dtype}{_count_nan(path, image_key, dtype, setting)}, not uint8: {_mend_dtype(dtype)}"
        )
    if len(shape) not in (3, 4):
        raise UserError(f"{what} has shape {shape}, not (N, H, W) or (N, H, W, C): reshape the array and save it again")
    if min(shape) < 1:
        raise UserError(f"{what} is empty, its shape is {shape}: set --data.{setting} to a file with images")
    if len(shape) == 4 and shape[3] == 4:
        raise UserError(
            f"{what} has shape {shape} with an alpha channel: drop it, x[..., :3], and save the array again"
        )
    if len(shape) == 4 and shape[3] not in (1, 3):
        hint = "move the channels last, x.transpose(0, 2, 3, 1)," if shape[1] in (1, 3) else "keep 1 or 3 channels"
        raise UserError(f"{what} has shape {shape}, with {shape[3]} channels: {hint} and save the array again")
    if label_key is None:
        return shape, None
    label_shape, label_dtype = headers[label_key]
    if not np.issubdtype(label_dtype, np.integer):
        raise UserError(f"{label_key} of {path} is {label_dtype}, not integer: save class numbers from 0 on")
    if label_shape != shape[:1]:
        raise UserError(
            f"{label_key} of {path} has shape {label_shape}, but there are {shape[0]} images: save one label each"
        )
    labels = read_array(path, label_key, setting)
    if labels.min() < -1:
        raise UserError(f"{label_key} of {path} holds {labels.min()}: save class numbers from 0 on, -1 where unknown")
    return shape, labels


def pick_keys(headers: dict[str, Header]) -> tuple[str, str | None]:
    """Return the names of the images ('x' if there are none) and of the labels."""
    label_key = next((key for key in LABEL_KEYS if key in headers), None)
    fitting = [key for key, header in headers.items() if len(header.shape) in (3, 4) and key != label_key]
    only = fitting[0] if len(fitting) == 1 else "x"
    return next((key for key in IMAGE_KEYS if key in headers), only), label_key


def read_headers(path: str, setting: str) -> dict[str, Header]:
    """Return name -> header for the arrays of a file; a ``.npy`` file's array has the name ''."""
    if not Path(path).is_file():
        raise UserError(f"{path} is not a file: set --data.{setting} to a .npz or .npy file")
    try:
        if not zipfile.is_zipfile(path):
            with open(path, "rb") as file:
                return {"": _read_header(file)}
        headers = {}
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".npy"):
                    with archive.open(name) as file:
                        headers[name.removesuffix(".npy")] = _read_header(file)
        return headers
    except Exception as error:  # a damaged file makes zipfile and NumPy raise many things
        raise UserError(_unreadable(path, setting)) from error


def read_array(path: str, key: str, setting: str) -> np.ndarray:
    """Return one array of a file; pickled objects are refused."""
    try:
        if key == "":
            return np.load(path, allow_pickle=False)
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[key]
    except Exception as error:
        raise UserError(_unreadable(path, setting)) from error


def _read_header(file: Any) -> Header:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    return Header(shape, dtype)


def _unreadable(path: str, setting: str) -> str:
    return f"{path} cannot be read as NumPy arrays: save it again, or set --data.{setting} to another file"


def _count_nan(path: str, key: str, dtype: np.dtype, setting: str) -> str:
    if not np.issubdtype(dtype, np.floating):
        return ""
    count = int(np.isnan(read_array(path, key, setting)).sum())
    return f" with {count} NaN (not a number)" if count else ""


def _mend_dtype(dtype: np.dtype) -> str:
    if np.issubdtype(dtype, np.floating):
        return "for values in [0, 1] save (x * 255).round().astype('uint8')"
    return "scale the values to 0..255 and save x.astype('uint8')"
