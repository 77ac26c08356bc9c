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

IMAGE_NAMES = ("x", "images", "image", "imgs", "img", "data")
LABEL_NAMES = ("y", "labels", "label", "targets", "target")
UNREADABLE = "cannot be read as NumPy arrays ({reason}): save it again, or use another file"


class ImageArrays(ImageDataModule):
    """Images of one or two NumPy files, in memory.

    A ``.npz`` file holds the images under ``x``, ``images``, ``image``, ``imgs``, ``img`` or ``data``, and the labels,
    if any, under ``y``, ``labels``, ``label``, ``targets`` or ``target``. With a split in the names (``x_train``,
    ``y_train``, ``test_images``, ...: Keras, MedMNIST) the arrays are the splits; without one for validation a part of
    the training images is used. A ``.npy`` file holds images alone. Pickled objects are not read.

    Args:
        path: File with the images for training and validation.
        test_path: File with the test images. Default: those of ``path``.
        array: Name of the array with the images. Default: one of those above.
        label_array: Name of the array with the labels. Default: one of those above.
        val_fraction: Fraction of the training images for validation, if there are no validation images.
        image_size: Height and width to resize and crop to; null keeps the size, which then must be square.
        **common: Arguments of :class:`~vqlab.data.images.base.ImageDataModule`.

    Shape:
        Images (N, H, W) or (N, H, W, C) uint8 with C = 1 or 3, labels (N,) or (N, 1) integers, -1 where unknown.

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
        self.path, self.test_path, self.array, self.label_array = path, test_path, array, label_array
        found = self._read(path, "path", image_size)
        if "train" not in found:
            raise UserError(f"{path} holds no images for training: set array=NAME to train on others")
        if test_path is not None:
            held_out = self._read(test_path, "test_path", image_size)
            found["test"] = held_out.get("test") or next(iter(held_out.values()))
        train = found["train"]
        self.is_whole = set(found) == {"train"}
        self.channels, self.image_size = train.images.shape[1:3]
        self.num_classes = max(0, int(train.labels.max()) + 1)
        for split, part in found.items():
            if part.images.shape[1:] != train.images.shape[1:]:
                shapes = [tuple(images.images.shape[1:]) for images in (part, train)]
                raise UserError(f"the {split} images have shape {shapes[0]}, those for training {shapes[1]}")
            if self.num_classes and part.labels.max() >= self.num_classes:
                classes = f"0 to {self.num_classes - 1} alone"
                raise UserError(f"the {split} images have class {part.labels.max()}, those for training {classes}")
        if "val" not in found:
            rows = draw_splits(len(train), val_fraction, 0, self.seed, "image", f": use another file than {path}")
            found |= {split: train.part(positions) for split, positions in rows.items()}
        self.train_size = len(found["train"])
        self._splits = found

    def load_train_val(self) -> tuple[ImageTensors, ImageTensors]:
        """Return the training and the validation images."""
        return self._splits["train"], self._splits["val"]

    def load_test(self) -> ImageTensors | None:
        """Return the test images, if there are any."""
        return self._splits.get("test")

    def load_all(self) -> ImageTensors | None:
        """Return all images of a file that has no other split."""
        return self._read(self.path, "path", self.image_size)["train"] if self.is_whole else None

    def _read(self, path: str, setting: str, size: int | None) -> dict[str, ImageTensors]:
        """Return the images of each split of a file; those of none are ``train``."""
        if not Path(path).is_file():
            raise UserError(f"{path} is not a file: set {setting}=FILE to a .npz or .npy file")
        with reading(path, UNREADABLE):
            loaded = np.load(path, allow_pickle=False)
        arrays = {"x": loaded} if isinstance(loaded, np.ndarray) else loaded  # an npz reads an array when it is used
        for argument, name in (("array", self.array), ("label_array", self.label_array)):
            if name is not None and name not in arrays:
                raise UserError(f"{argument} {name} is not in {path}, which holds {', '.join(arrays)}")
        images, labels = by_split(arrays, IMAGE_NAMES), by_split(arrays, LABEL_NAMES)
        if self.array is not None:
            split = next((split for split, name in images.items() if name == self.array), "train")
            images, labels = {"train": self.array}, {"train": labels[split]} if split in labels else {}
        if not images:
            raise UserError(f"{path} has no array x, images or image, but {', '.join(arrays)}: set array=NAME")
        if self.label_array is not None:
            labels["train"] = self.label_array
        with reading(path, UNREADABLE):
            return {split: as_tensors(path, arrays, name, labels.get(split), size) for split, name in images.items()}


def by_split(names: Iterable[str], usual: tuple[str, ...]) -> dict[str, str]:
    """Return split -> name of the usual names; ``x`` alone is of the split ``train``, as ``X_train`` is."""
    found: dict[str, str] = {}
    for wanted in usual:
        for name in names:
            words = name.lower().split("_")
            splits = [SPLIT_OF[word] for word in words if word in SPLIT_OF]
            if [word for word in words if word not in SPLIT_OF] == [wanted]:
                found.setdefault("".join(splits) or "train", name)
    return found


def as_tensors(
    path: str, arrays: Mapping[str, np.ndarray], name: str, label_name: str | None, size: int | None
) -> ImageTensors:
    """Return images (N, C, S, S) and labels (N,) of two arrays; raise UserError if a dtype or shape is wrong."""
    images, shape = arrays[name], arrays[name].shape
    if images.dtype != np.uint8:
        raise UserError(f"{name} of {path} is {images.dtype}, not uint8: save (x * 255).round().astype('uint8')")
    if len(shape) not in (3, 4) or shape[3:] not in ((), (1,), (3,)) or min(shape) < 1:
        raise UserError(f"{name} of {path} has shape {shape}, not (N, H, W), (N, H, W, 1) or (N, H, W, 3): save it so")
    if size is None and shape[1] != shape[2]:
        size = min(shape[1:3])
        raise UserError(f"{path} has images of {shape[1]} x {shape[2]} pixels, not square: set image_size={size}")
    pixels = torch.from_numpy(images.reshape(*shape[:3], -1)).permute(0, 3, 1, 2).contiguous()
    pixels = fit_square(pixels, size or shape[1])
    if label_name is None:
        return ImageTensors(pixels)
    labels = arrays[label_name]
    if labels.shape not in (shape[:1], (*shape[:1], 1)) or labels.dtype.kind not in "iu" or labels.min() < -1:
        raise UserError(
            f"{label_name} of {path} is {labels.dtype} of shape {labels.shape}, but there are {shape[0]} images: save "
            "one integer each, from 0 on, -1 where unknown"
        )
    return ImageTensors(pixels, torch.from_numpy(labels.reshape(-1).astype(np.int64)))
