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
from vqlab.data.images.base import ImageDataModule
from vqlab.data.split_folders import split_folders
from vqlab.errors import UserError
from vqlab.validation import Count

EXTENSIONS = (*IMG_EXTENSIONS, ".gif")
DEFAULT_WORKERS = min(4, os.cpu_count() or 1)

log = logging.getLogger(__name__)


class DecodedImages(Split):
    """Images that are decoded on access to (channels, size, size); channels is 3 for colour, 1 for grey."""

    def __init__(self, labels: Tensor, size: int, channels: int) -> None:
        self.labels, self.size, self.channels = labels, size, channels  # label -1 for none

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> Batch:
        index = torch.as_tensor(indices)
        return {"image": torch.stack([self.decode(i) for i in indices]), "label": self.labels[index], "index": index}

    @abstractmethod
    def decode(self, index: int) -> Tensor:
        """Return an image (channels, size, size) uint8."""


class ImageFiles(DecodedImages):
    """Image files."""

    def __init__(self, files: list[str], labels: list[int], size: int, channels: int) -> None:
        super().__init__(torch.tensor(labels), size, channels)
        self.files = np.array(files)  # reference counts of the strings in a list would copy it into each worker

    def decode(self, index: int) -> Tensor:
        file = str(self.files[index])
        with reading(file, "cannot be decoded ({reason}): remove it, or set skip_corrupt=true"):
            return decode_square(file, self.size, self.channels)


class ImageFolder(ImageDataModule):
    """A folder with images at any depth: png, jpg, bmp, webp, tif, gif and the other formats of torchvision.

    Folders ``path/train``, ``path/val`` and ``path/test``, also under other usual names, are the splits. If ``val`` is
    missing, it is drawn by ``seed`` from the training images, or from all images if there is no split folder. The label
    is the alphabetical number of the first-level folder (of a split) if at least two of them hold images, else -1; a
    folder that holds all others is ignored. The shorter side of images is resized (antialiased); the centre is cropped.

    Args:
        path: The folder.
        image_size: Height and width.
        channels: 3 for colour, 1 for grey.
        val_fraction: Fraction of the images for validation, if there is no ``path/val``.
        verify: Decode each file once before training to find damaged ones.
        skip_corrupt: Leave out damaged files with one warning instead of an error.
        num_workers: Processes that decode. Default: one per core, up to 4.
        **common: Arguments of :class:`~vqlab.data.images.base.ImageDataModule`.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog", "owl"):
        ...     (folder / name).mkdir()
        ...     Image.new("RGB", (40, 30)).save(folder / name / "1.png")
        >>> data = ImageFolder(str(folder), image_size=16, val_fraction=0.3, batch_size=2, num_workers=0)
        >>> data.num_classes, data.train_size, next(iter(data.train_dataloader()))["image"].shape
        (3, 2, torch.Size([2, 3, 16, 16]))
    """

    test_hint = "add a folder `test` beside `train` and `val`, or use `vqlab validate`"
    statistics_limit = 1000

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
        super().__init__(num_workers=DEFAULT_WORKERS if num_workers is None else num_workers, **common)
        self.path, self.image_size, self.channels = path, image_size, channels
        self.verify, self.skip_corrupt = verify, skip_corrupt
        self.roots, self.files = split_folders(Path(path), EXTENSIONS, "images")
        pool = "" if "" in self.roots else "train"
        top = Path(os.path.commonpath([file.parent for file in self.files[pool]]))  # holds the folders of the classes
        folders = {file.relative_to(top).parts[0] for file in self.files[pool] if file.parent != top}
        self.classes = sorted(folders) if len(folders) >= 2 else []
        if "val" not in self.roots:
            root, files = self.roots.pop(pool), self.files.pop(pool)
            drawn = draw_splits(len(files), val_fraction, 0, self.seed, "image", f": add more to {path}")
            for split, part in drawn.items():
                self.roots[split], self.files[split] = root, [files[i] for i in part]
        self.num_classes = len(self.classes)
        self.train_size = len(self.files["train"])

    def load_all(self) -> ImageFiles:
        parts = [part for split in self.files if (part := self.load_split(split))]
        labels = {file: label for part in parts for file, label in zip(part.files, part.labels.tolist(), strict=True)}
        return ImageFiles(sorted(labels), [labels[file] for file in sorted(labels)], self.image_size, self.channels)

    def load_split(self, split: str) -> ImageFiles | None:
        if split not in self.files:
            return None
        files = self.files[split]
        if self.verify or self.skip_corrupt:
            files = self._without_corrupt(files)
        labels = label_files(files, self.roots[split], self.classes)
        return ImageFiles([str(file) for file in files], labels, self.image_size, self.channels)

    def _without_corrupt(self, files: list[Path]) -> list[Path]:
        """Return the files that can be decoded."""

        def is_sound(file: Path) -> bool:
            try:
                return len(decode_square(file, self.image_size, self.channels)) > 0
            except (UserError, MemoryError):
                raise
            except Exception:  # PIL raises many kinds of errors for damaged files
                return False

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            results = counted(pool.map(is_sound, files), len(files), "verified", "images")
            corrupt = [file for file, sound in zip(files, results, strict=True) if not sound]
        problem = f"{len(corrupt)} of {len(files)} images cannot be decoded ({', '.join(map(str, corrupt[:5]))})"
        if corrupt and (len(corrupt) == len(files) or not self.skip_corrupt):
            raise UserError(f"{problem}: remove them or set skip_corrupt=true")
        if corrupt:
            log.warning(f"left out: {problem}")
        return sorted({*files} - {*corrupt})


def decode_square(file: str | Path | IO[bytes], size: int, channels: int = 3, name: str = "") -> Tensor:
    """Decode an image file, or an open file called ``name``, to (channels, size, size) uint8 and crop the centre."""
    with Image.open(file) as opened:
        opened.draft("RGB", (size, size))  # a JPEG is decoded at the smallest fraction of its size that is >= size
        if opened.mode[0] in "IF":
            raise UserError(f"{name or file} has 16 or 32 bits per channel: scale all images alike and save 8 bits")
        image = ImageOps.exif_transpose(opened).convert("RGB" if channels == 3 else "L")
    image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).view(size, size, channels).permute(2, 0, 1).contiguous()


def label_files(files: list[Path], root: Path, classes: list[str]) -> list[int]:
    """Return the label of each file: the number of its first folder below ``root`` that is a class, or -1."""
    numbers = {name: number for number, name in enumerate(classes)}
    labels = []
    for file in files:
        folders = file.relative_to(root).parts[:-1]
        label = next((numbers[name] for name in folders if name in numbers), -1)
        if classes and folders and label < 0:
            raise UserError(f"{root} holds {folders[0]}, not a class of the training images: rename or remove it")
        labels.append(label)
    return labels
