"""Data sets of torchvision: CIFAR-10, SVHN, MNIST and Fashion-MNIST."""

from typing import Any, ClassVar

import torch
from torchvision import datasets
from torchvision.datasets.utils import check_integrity, download_url

from vqlab.data.datamodule import split_positions
from vqlab.data.files import WITHOUT_NETWORK, download_whole, reading
from vqlab.data.images.base import ImageDataModule, ImageTensors, fit_square
from vqlab.errors import UserError
from vqlab.validation import Count


class TorchvisionImages(ImageDataModule):
    """The images of a torchvision data set in memory. Validation images are drawn from the official training images.

    Args:
        path: Folder of the data set in torchvision's layout, which a download creates.
        download: Download what is missing.
        val_size: Number of official training images for validation.
        image_size: Height and width to resize to; null keeps the native size.
        **common: Arguments of :class:`~vqlab.data.images.base.ImageDataModule`.
    """

    source: ClassVar[type[datasets.VisionDataset]]
    native_size: ClassVar[int] = 28
    num_official: ClassVar[int] = 60_000  # official training images
    mean: ClassVar[tuple[float, ...]]  # of the official training images, as published
    std: ClassVar[tuple[float, ...]]
    num_classes = 10

    def __init__(
        self,
        path: str = "data",
        download: bool = True,
        val_size: Count = 5000,
        image_size: Count | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if val_size >= self.num_official:
            raise UserError(f"val_size must be in [1, {self.num_official - 1}], got {val_size}")
        self.path, self.download, self.val_size = path, download, val_size
        self.folder = getattr(self.source, "base_folder", f"{self.source.__name__}/raw")  # of torchvision, under path
        self.channels, self.image_size = len(self.mean), image_size or self.native_size
        self.train_size = self.num_official - val_size

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the published mean and standard deviation, which need no data."""
        return self.mean, self.std

    def prepare_data(self) -> None:
        """Unpack archives, and download what is missing, unless the data set is complete."""
        try:
            self._read(train=False)  # torchvision checks the training files as well
        except UserError as error:
            if not self.download or isinstance(error.__cause__, MemoryError):
                raise
            archives = getattr(self.source, "filename", f"{self.folder}/*.gz")  # that torchvision unpacks
            name = type(self).__name__
            download_whole(name, self.path, self.folder, archives, lambda root: self.source(root, download=True))

    def load_train_val(self) -> tuple[ImageTensors, ImageTensors]:
        whole = self._read(train=True)
        train, val = map(whole.part, split_positions(len(whole), self.val_size, self.seed))
        return train, val

    def load_test(self) -> ImageTensors:
        return self._read(train=False)

    def _read(self, train: bool) -> ImageTensors:
        name = f"{type(self).__name__} in {self.path}/{self.folder}"
        with reading(name, f"is missing or incomplete: set path=FOLDER or download=true; {WITHOUT_NETWORK}"):
            official: Any = self.source(self.path, train=train)
        images = torch.as_tensor(official.data)
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
        return ImageTensors(fit_square(images.contiguous(), self.image_size), torch.as_tensor(official.targets))


class _SVHN(datasets.SVHN):
    """torchvision's SVHN with the arguments and attributes of its CIFAR10: both splits in one folder."""

    base_folder, filename = "svhn", "svhn/*.mat"  # under path; the files that need no download

    def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
        super().__init__(f"{root}/{self.base_folder}", "train" if train else "test", download=download)
        self.data: Any = self.data.transpose(0, 2, 3, 1)
        self.targets = self.labels

    def _check_integrity(self) -> bool:
        files = [self.split_list[split] for split in ("train", "test")]
        return all(check_integrity(f"{self.root}/{name}", md5) for _, name, md5 in files)

    def download(self) -> None:
        for split in ("train", "test"):
            url, name, md5 = self.split_list[split]
            download_url(url, self.root, name, md5)


class CIFAR10(TorchvisionImages):
    """CIFAR-10 (Krizhevsky, 2009): 45,000 training, 5,000 validation and 10,000 test photographs, 3 x 32 x 32.

    ``path`` holds ``cifar-10-batches-py`` or ``cifar-10-python.tar.gz`` (170 MB).

    Example:
        >>> data = CIFAR10(value_range="standardized")  # reads and downloads nothing yet
        >>> data.channels, data.image_size, data.num_classes, data.train_size
        (3, 32, 10, 45000)
        >>> data.pixel_range.mean
        (0.4914, 0.4822, 0.4465)
    """

    source = datasets.CIFAR10
    native_size = 32
    num_official = 50_000
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)


class MNIST(TorchvisionImages):
    """MNIST (LeCun et al., 1998): 55,000 training, 5,000 validation and 10,000 test digits, 1 x 28 x 28.

    ``path`` holds ``MNIST/raw`` (12 MB to download).
    """

    source = datasets.MNIST
    mean = (0.1307,)
    std = (0.3081,)
    flip = False


class FashionMNIST(TorchvisionImages):
    """Fashion-MNIST (Xiao et al., 2017, arXiv:1708.07747): images of clothes, in the format of :class:`MNIST`.

    ``path`` holds ``FashionMNIST/raw`` (31 MB to download).
    """

    source = datasets.FashionMNIST
    mean = (0.2860,)
    std = (0.3530,)


class SVHN(TorchvisionImages):
    """SVHN (Netzer et al., 2011): 68,257 training, 5,000 validation and 26,032 test house numbers, 3 x 32 x 32.

    ``path`` holds ``svhn/train_32x32.mat`` and ``svhn/test_32x32.mat`` (246 MB to download).
    """

    source = _SVHN
    native_size = 32
    num_official = 73_257
    mean = (0.4377, 0.4438, 0.4728)
    std = (0.1980, 0.2010, 0.1970)
    flip = False
