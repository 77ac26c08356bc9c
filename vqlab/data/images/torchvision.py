"""What the data sets share that torchvision downloads: official training and test images in one small folder."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchvision.datasets import VisionDataset

from vqlab.data.datamodule import require_at_least, split_positions
from vqlab.data.download import WITHOUT_NETWORK, download_whole
from vqlab.data.images.base import ImageDataModule, ImageTensors, fit_square
from vqlab.errors import UserError, read_error


class TorchvisionImages(ImageDataModule):
    """A data set of torchvision's, in memory; validation images are a seeded part of the official training images.

    Args:
        path: Folder that holds, or is to hold, the data set in torchvision's layout.
        download: Download what is missing.
        val_size: Number of official training images that are kept for validation.
        image_size: Height and width to resize to; null keeps the native size.
        **common: ``batch_size``, ``value_range``, ``augment``, ``labels_per_class``, ``num_workers``,
            ``seed``: see :class:`~vqlab.data.images.base.ImageDataModule`.
    """

    source: ClassVar[type[VisionDataset]]
    folder: ClassVar[str]  # what torchvision reads, under ``path``
    archives: ClassVar[str]  # pattern of what it unpacks, under ``path``
    native_size: ClassVar[int]
    num_official: ClassVar[int]  # official training images
    mean: ClassVar[tuple[float, ...]]  # of the official training images, as published
    std: ClassVar[tuple[float, ...]]
    num_classes = 10

    def __init__(
        self,
        path: str = "data",
        download: bool = True,
        val_size: int = 5000,
        image_size: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        require_at_least("image_size", 1 if image_size is None else image_size, 1, mend=self.native_size)
        if not 1 <= val_size < self.num_official:
            raise UserError(
                f"val_size must be between 1 and {self.num_official - 1}, got {val_size}: set --data.val_size=5000"
            )
        self.path = path
        self.download = download
        self.val_size = val_size
        self.channels = len(self.mean)
        self.image_size = image_size or self.native_size
        self.train_size = self.num_official - val_size

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the published mean and standard deviation, so that the data need not be there."""
        return self.mean, self.std

    def prepare_data(self) -> None:
        """Unpack what was put there, and download what is missing, unless the data set is complete."""
        try:
            self._read(train=False)  # torchvision checks the training files as well
        except UserError as error:
            if not self.download or isinstance(error.__cause__, MemoryError):
                raise
            name = type(self).__name__
            download_whole(name, self.path, self.folder, self.archives, lambda root: self.source(root, download=True))

    def load_train_val(self) -> tuple[ImageTensors, ImageTensors]:
        """Return the two parts of the official training images."""
        images, labels = self._read(train=True)
        train, val = split_positions(len(images), self.val_size, self.seed)
        return ImageTensors(images[train], labels[train]), ImageTensors(images[val], labels[val])

    def load_test(self) -> ImageTensors:
        """Return the official test images."""
        return ImageTensors(*self._read(train=False))

    def _read(self, train: bool) -> tuple[Tensor, Tensor]:
        try:
            official: Any = self.source(self.path, train=train)
        except Exception as error:  # whatever a damaged file makes torchvision raise
            raise read_error(
                self.path,
                error,
                f"{type(self).__name__} is not, or not whole, in {Path(self.path) / self.folder}: set --data.path to "
                f"the folder that holds {Path(self.folder).parts[0]}, or --data.download=true; {WITHOUT_NETWORK}",
            ) from error
        images = torch.as_tensor(official.data)
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
        return fit_square(images.contiguous(), self.image_size), torch.as_tensor(official.targets)
