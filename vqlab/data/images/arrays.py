"""Images from NumPy files (.npz or .npy)."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vqlab.data.datamodule import ValFraction, draw_splits
from vqlab.data.files import reading
from vqlab.data.images.base import ImageDataModule, ImageTensors, fit_square
from vqlab.data.split_folders import SPLIT_OF
from vqlab.errors import UserError
from vqlab.validation import Count

IMAGE_NAMES = ("x", "images", "image", "imgs", "img", "data", "arr_0")
LABEL_NAMES = ("y", "labels", "label", "targets", "target", "arr_1")  # arr_0, arr_1: of np.savez(file, x, y)


class ImageArrays(ImageDataModule):
    """Images of one or two NumPy files, in memory.

    A ``.npz`` file holds the images under ``x``, ``images``, ``image``, ``imgs``, ``img``, ``data`` or ``arr_0``, and
    labels, if any, under ``y``, ``labels``, ``label``, ``targets``, ``target`` or ``arr_1``. Names may contain a split
    (``x_train``, ``test_labels``: Keras, MedMNIST). A ``.npy`` file holds images alone.

    Args:
        path: File with the images for training and validation.
        test_path: File with the test images. Default: those of ``path``.
        val_fraction: Fraction of the training images for validation, if there are no validation images.
        image_size: Height and width to resize and crop to. Default: those of the images, which then must be square.
        **common: Arguments of :class:`~vqlab.data.images.base.ImageDataModule`.

    Shape:
        Images (N, H, W) or (N, H, W, C) uint8 with C = 1 or 3, labels (N,) or (N, 1) integers, -1 where unknown.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/grey.npz"
        >>> np.savez(path, x=np.zeros((20, 8, 8), np.uint8), y=np.arange(20) % 4)
        >>> data = ImageArrays(path, batch_size=4)
        >>> data.channels, data.image_size, data.num_classes, data.train_size
        (1, 8, 4, 19)
    """

    test_hint = "set test_path=FILE, or use `vqlab validate`"

    def __init__(
        self,
        path: str,
        test_path: str | None = None,
        val_fraction: ValFraction = 0.05,
        image_size: Count | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.path, self.test_path = path, test_path
        found = read_images(path, "path", image_size)
        if "train" not in found:
            raise UserError(f"{path} holds no training images: save them as x_train")
        if test_path is not None:
            held_out = read_images(test_path, "test_path", image_size)
            found["test"] = held_out.get("test") or next(iter(held_out.values()))
        train = found["train"]
        self.is_whole = set(found) == {"train"}
        self.channels, self.image_size = train.images.shape[1:3]
        self.num_classes = max(0, int(train.labels.max()) + 1)
        for split, part in found.items():
            shape, expected, largest = (*part.images.shape[1:],), (*train.images.shape[1:],), int(part.labels.max())
            if shape != expected:
                raise UserError(f"the {split} images have shape {shape}, the training images {expected}")
            if 0 < self.num_classes <= largest:
                classes = f"only 0 to {self.num_classes - 1}"
                have = f"the {split} images have class {largest}, the training images {classes}"
                raise UserError(f"{have}: correct the labels")
        if "val" not in found:
            rows = draw_splits(len(train), val_fraction, 0, self.seed, "image", f": use another file than {path}")
            found |= {split: train.part(positions) for split, positions in rows.items()}
        self.train_size = len(found["train"])
        self._splits = found

    def load_all(self) -> ImageTensors | None:
        return read_images(self.path, "path", self.image_size)["train"] if self.is_whole else None


def read_images(path: str, setting: str, size: int | None) -> dict[str, ImageTensors]:
    """Return the images of each split of a file; images of no split are ``train``."""
    if not Path(path).is_file():
        raise UserError(f"{path} is not a file: set {setting}=FILE to a .npz or .npy file")
    with reading(path, "cannot be read as NumPy arrays ({reason}): save it again, or use another file"):
        loaded = np.load(path, allow_pickle=False)
        arrays = {"x": loaded} if isinstance(loaded, np.ndarray) else loaded  # an npz file reads arrays on access
        images, labels = by_split(arrays, IMAGE_NAMES), by_split(arrays, LABEL_NAMES)
        if not images:
            raise UserError(f"{path} has no array x, images or image, but {', '.join(arrays)}: save the images as x")
        return {split: as_tensors(path, arrays, name, labels.get(split), size) for split, name in images.items()}


def by_split(names: Iterable[str], usual: tuple[str, ...]) -> dict[str, str]:
    """Return split -> name of the array with a usual name; ``x`` is of the split ``train``, as ``X_train``."""
    found: dict[str, str] = {}
    for wanted in usual:
        for name in names:
            words = name.lower().split("_")
            splits = [SPLIT_OF[word] for word in words if word in SPLIT_OF]
            if "_".join(word for word in words if word not in SPLIT_OF) == wanted:
                found.setdefault("".join(splits) or "train", name)
    return found


def as_tensors(
    path: str, arrays: Mapping[str, np.ndarray], name: str, label_name: str | None, size: int | None
) -> ImageTensors:
    """Return images (N, C, S, S) and labels (N,), or raise UserError if a dtype or shape is wrong."""
    images, shape = arrays[name], arrays[name].shape
    if images.dtype != np.uint8:
        raise UserError(f"{name} of {path} is {images.dtype}, not uint8: save (x * 255).round().astype('uint8')")
    if len(shape) not in (3, 4) or shape[3:] not in ((), (1,), (3,)) or min(shape) < 1:
        raise UserError(f"{name} of {path} has shape {shape}: save it as (N, H, W), (N, H, W, 1) or (N, H, W, 3)")
    if size is None and shape[1] != shape[2]:
        hint = f"set image_size={min(shape[1:3])}"
        raise UserError(f"{path} has images of {shape[1]} x {shape[2]} pixels, not square: {hint}")
    pixels = torch.from_numpy(images.reshape(*shape[:3], -1)).permute(0, 3, 1, 2).contiguous()
    pixels = fit_square(pixels, size or shape[1])
    if label_name is None:
        return ImageTensors(pixels)
    labels = arrays[label_name]
    if labels.shape not in (shape[:1], (*shape[:1], 1)) or labels.dtype.kind not in "iu" or labels.min() < -1:
        found = f"{labels.dtype} of shape {labels.shape} for {shape[0]} images"
        raise UserError(f"{label_name} of {path} is {found}: save one integer per image, from 0 on, -1 if unknown")
    return ImageTensors(pixels, torch.from_numpy(labels.reshape(-1).astype(np.int64)))
