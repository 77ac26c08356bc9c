"""Images from a folder of files."""

import logging
import os
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from vqlab.data.datamodule import Batch, Split, ValFraction, Workers, draw_splits
from vqlab.data.files import counted, reading
from vqlab.data.images.base import ImageDataModule, channel_statistics
from vqlab.data.split_folders import split_folders
from vqlab.errors import UserError
from vqlab.validation import Count

EXTENSIONS = (*IMG_EXTENSIONS, ".gif")

log = logging.getLogger(__name__)


class DecodedImages(Split):
    """Images that are decoded on access to squares of ``size`` with 3 (colour) or 1 (grey) channels."""

    def __init__(self, labels: Tensor, size: int, channels: int) -> None:
        self.labels, self.size, self.channels = labels, size, channels  # label -1 for none

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> Batch:
        index = torch.as_tensor(indices)
        return {"image": torch.stack([self.decode(i) for i in indices]), "label": self.labels[index], "index": index}

    @abstractmethod
    def decode(self, index: int) -> Tensor:
        """Return an image, (channels, size, size) uint8."""


class ImageFiles(DecodedImages):
    """Image files."""

    def __init__(self, files: list[str], labels: list[int], size: int, channels: int) -> None:
        super().__init__(torch.tensor(labels), size, channels)
        # A NumPy array is one object: reference counts of single strings would copy the list into each worker.
        self.files = np.array(files)

    def decode(self, index: int) -> Tensor:
        """Decode a file."""
        file = str(self.files[index])
        with reading(file, "cannot be decoded ({reason}): remove it, or set skip_corrupt=true"):
            return decode_square(file, self.size, self.channels)


class ImageFolder(ImageDataModule):
    """A folder with images at any depth: png, jpg, bmp, webp, tif, gif and what else torchvision lists.

    Folders ``path/train``, ``path/val`` and ``path/test`` are the splits, also under other usual names (``training``,
    ``valid``, ``validation``, ``dev``, ``testing``, ``eval``, capital letters or not); without ``path/val`` the
    validation images are drawn by ``seed`` from the training images, and without any split folder from all images. The
    label is the number of the first-level folder (of a split) in alphabetical order, if at least two of them hold
    images, else -1. Images are resized (shorter side, antialiased) and the centre is cropped.

    Args:
        path: The folder.
        image_size: Height and width.
        channels: 3 for colour, 1 for grey.
        val_fraction: Fraction of the images for validation, if there is no ``path/val``.
        verify: Decode each file once before training, to find damaged ones.
        skip_corrupt: Leave damaged files out with one warning instead of an error.
        num_workers: Processes that decode. Default: one per core, up to 4.
        **common: Arguments of :class:`~vqlab.data.images.base.ImageDataModule`.

    Raises:
        UserError: If there are no images, or only some folders are splits; in ``setup``, if files cannot be decoded.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("cat/1", "cat/2", "dog/1"):
        ...     (folder / name).parent.mkdir(exist_ok=True)
        ...     Image.new("RGB", (40, 30)).save(folder / f"{name}.png")
        >>> data = ImageFolder(str(folder), image_size=16, val_fraction=0.3, batch_size=2, num_workers=0)
        >>> data.num_classes, data.train_size, next(iter(data.train_dataloader()))["image"].shape
        (2, 2, torch.Size([2, 3, 16, 16]))
    """

    test_mend = "add a folder `test` beside `train` and `val`, or use `vqlab validate`"

    def __init__(
        self,
        path: str,
        image_size: Count = 64,
        channels: Literal[1, 3] = 3,
        val_fraction: ValFraction = 0.05,
        verify: bool = True,
        skip_corrupt: bool = False,
        num_workers: Workers | None = None,
        **common: Any,
    ) -> None:
        super().__init__(num_workers=decoding_workers(num_workers), **common)
        self.path, self.image_size, self.channels = path, image_size, channels
        self.verify, self.skip_corrupt = verify, skip_corrupt
        self.roots, self.files = split_folders(Path(path), EXTENSIONS, "images")
        pool = "" if "" in self.roots else "train"
        folders = {folder_of(file, self.roots[pool]) for file in self.files[pool]} - {""}
        self.classes = sorted(folders) if len(folders) >= 2 else []
        if "val" not in self.roots:
            root, files = self.roots.pop(pool), self.files.pop(pool)
            drawn = draw_splits(len(files), val_fraction, 0, self.seed, "image", f": add more to {path}")
            for split, part in drawn.items():
                self.roots[split], self.files[split] = root, [files[i] for i in part]
        self.num_classes = len(self.classes)
        self.train_size = len(self.files["train"])

    def load_train_val(self) -> tuple[ImageFiles, ImageFiles]:
        """Return the training and the validation files, verified."""
        return self._load("train"), self._load("val")

    def load_test(self) -> ImageFiles | None:
        """Return the verified files of ``path/test``."""
        return self._load("test") if "test" in self.files else None

    def load_all(self) -> ImageFiles:
        """Return the verified files of all splits, in the order of their paths."""
        parts = [self._load(split) for split in self.files]
        pairs = (pair for part in parts for pair in zip(part.files, part.labels.tolist(), strict=True))
        files, labels = zip(*sorted(pairs), strict=True)
        return ImageFiles(list(files), list(labels), self.image_size, self.channels)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation per channel of a fixed random sample of 1,000 training images."""
        return channel_statistics(self._train_val[0], limit=1000)

    def _load(self, split: str) -> ImageFiles:
        files = self.files[split]
        if self.verify or self.skip_corrupt:
            files = self._without_corrupt(files)
        labels = label_files(files, self.roots[split], self.classes)
        return ImageFiles([str(file) for file in files], labels, self.image_size, self.channels)

    def _without_corrupt(self, files: list[Path]) -> list[Path]:
        """Decode all files in threads, as training does, and return those that can be decoded."""

        def is_corrupt(file: Path) -> bool:
            try:
                decode_square(file, self.image_size, self.channels)
            except (UserError, MemoryError):
                raise
            except Exception:  # damaged files make PIL raise many things
                return True
            return False

        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            results = list(counted(pool.map(is_corrupt, files), len(files), "verified", "images"))
        corrupt = [file for file, is_bad in zip(files, results, strict=True) if is_bad]
        problem = f"{len(corrupt)} of {len(files)} images cannot be decoded ({', '.join(map(str, corrupt[:5]))})"
        if corrupt and (len(corrupt) == len(files) or not self.skip_corrupt):
            raise UserError(f"{problem}: remove them or set skip_corrupt=true")
        if corrupt:
            log.warning(f"left out: {problem}")
        return sorted({*files} - {*corrupt})


def decoding_workers(num_workers: int | None) -> int:
    """Return the number of processes that decode. Default: one per core, up to 4."""
    return min(4, os.cpu_count() or 1) if num_workers is None else num_workers


def decode_square(file: str | Path | IO[bytes], size: int, channels: int = 3, name: str = "") -> Tensor:
    """Decode an image file, or an open one of a ``name``, to (channels, size, size) uint8.

    Its shorter side is resized, and its centre cropped. Channels of 16 or 32 bits, whose range is not certain, raise a
    UserError, and damaged files what PIL raises.
    """
    with Image.open(file) as opened:
        opened.draft("RGB", (size, size))  # lets a large JPEG be decoded at a fraction of its size, still >= size
        if opened.mode[0] in "IF":
            raise UserError(f"{name or file} has 16 or 32 bits per channel: scale all images alike and save 8 bits")
        image = ImageOps.exif_transpose(opened).convert("RGB" if channels == 3 else "L")
    image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).view(size, size, channels).permute(2, 0, 1).contiguous()


def folder_of(file: Path, root: Path) -> str:
    """Return the name of the first-level folder of a file, "" for a file in none."""
    return "" if file.parent == root else file.relative_to(root).parts[0]


def label_files(files: list[Path], root: Path, classes: list[str]) -> list[int]:
    """Return the number of each file's first-level folder in ``classes``, -1 for a file in none or without classes."""
    if not classes:
        return [-1] * len(files)
    numbers = {name: number for number, name in enumerate(classes)} | {"": -1}
    folders = [folder_of(file, root) for file in files]
    if unknown := sorted({*folders} - numbers.keys()):
        raise UserError(f"{root} holds {unknown[0]}, no class of the training images: rename or remove this folder")
    return [numbers[folder] for folder in folders]
