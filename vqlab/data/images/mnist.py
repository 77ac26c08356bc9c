"""MNIST (LeCun et al., 1998) and Fashion-MNIST (Xiao et al., 2017, arXiv:1708.07747): grey images of 28 x 28 pixels."""

from torchvision import datasets

from vqlab.data.images.torchvision import TorchvisionImages


class MNIST(TorchvisionImages):
    """MNIST: 55,000 training, 5,000 validation and 10,000 test images of handwritten digits, 1 x 28 x 28.

    Args:
        path: Folder that holds, or is to hold, ``MNIST/raw``.
        download: Download what is missing (12 MB).
        val_size: Number of official training images that are kept for validation.
        image_size: Height and width to resize to, such as 32; null keeps 28.
        **common: ``batch_size``, ``value_range``, ``augment``, ``labels_per_class``, ``num_workers``,
            ``seed``: see :class:`~vqlab.data.images.base.ImageDataModule`.

    Shape:
        See :class:`~vqlab.data.images.base.ImageDataModule`; labels are 0 to 9.

    Raises:
        UserError: If an argument is out of range; in ``prepare_data``, if the download fails.

    Example:
        >>> data = MNIST(image_size=32)  # reads and downloads nothing yet
        >>> data.channels, data.image_size, data.num_classes, data.train_size
        (1, 32, 10, 55000)
    """

    source = datasets.MNIST
    folder = "MNIST/raw"
    archives = "MNIST/raw/*.gz"
    native_size = 28
    num_official = 60_000
    mean = (0.1307,)
    std = (0.3081,)
    flip = False


class FashionMNIST(TorchvisionImages):
    """Fashion-MNIST: 55,000 training, 5,000 validation and 10,000 test images of clothes, 1 x 28 x 28.

    Args:
        path: Folder that holds, or is to hold, ``FashionMNIST/raw``.
        download: Download what is missing (31 MB).
        val_size: Number of official training images that are kept for validation.
        image_size: Height and width to resize to, such as 32; null keeps 28.
        **common: ``batch_size``, ``value_range``, ``augment``, ``labels_per_class``, ``num_workers``,
            ``seed``: see :class:`~vqlab.data.images.base.ImageDataModule`.

    Shape:
        See :class:`~vqlab.data.images.base.ImageDataModule`; labels are 0 to 9.

    Raises:
        UserError: If an argument is out of range; in ``prepare_data``, if the download fails.

    Example:
        >>> data = FashionMNIST(value_range="standardized")  # reads and downloads nothing yet
        >>> data.train_size, data.pixel_range.mean, data.pixel_range.std
        (55000, (0.286,), (0.353,))
    """

    source = datasets.FashionMNIST
    folder = "FashionMNIST/raw"
    archives = "FashionMNIST/raw/*.gz"
    native_size = 28
    num_official = 60_000
    mean = (0.2860,)
    std = (0.3530,)
