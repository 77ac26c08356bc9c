"""CIFAR-10 (Krizhevsky, 2009): 60,000 colour photographs of 32 x 32 pixels in ten classes."""

from torchvision import datasets

from vqlab.data.images.torchvision import TorchvisionImages


class CIFAR10(TorchvisionImages):
    """CIFAR-10: 45,000 training, 5,000 validation and 10,000 test images of 3 x 32 x 32.

    Args:
        path: Folder that holds, or is to hold, ``cifar-10-batches-py`` (or ``cifar-10-python.tar.gz``).
        download: Download what is missing (170 MB).
        val_size: Number of official training images that are kept for validation.
        image_size: Height and width to resize to; null keeps 32.
        **common: ``batch_size``, ``value_range``, ``augment``, ``labels_per_class``, ``num_workers``,
            ``seed``: see :class:`~vqlab.data.images.base.ImageDataModule`.

    Shape:
        See :class:`~vqlab.data.images.base.ImageDataModule`; labels are 0 to 9.

    Raises:
        UserError: If an argument is out of range; in ``prepare_data``, if the download fails.

    Example:
        >>> data = CIFAR10(value_range="standardized")  # reads and downloads nothing yet
        >>> data.channels, data.image_size, data.num_classes, data.train_size
        (3, 32, 10, 45000)
        >>> data.pixel_range.mean
        (0.4914, 0.4822, 0.4465)
    """

    source = datasets.CIFAR10
    folder = "cifar-10-batches-py"
    archives = "cifar-10-python.tar.gz"
    native_size = 32
    num_official = 50_000
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
