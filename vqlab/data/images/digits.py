"""Scikit-learn's handwritten digits (Alpaydin and Kaynak, 1998): 1,797 grey images of 8 x 8 pixels, no download."""

from typing import Any

import torch

from vqlab.data.images.base import ImageDataModule, ImageTensors, fit_square
from vqlab.data.split_folders import SPLITS
from vqlab.errors import UserError
from vqlab.validation import Count

NUM_DIGITS = 1797


class Digits(ImageDataModule):
    """The digits of scikit-learn, 1 x 32 x 32, enlarged bilinearly from 8 x 8, with labels 0 to 9.

    Args:
        image_size: Height and width; 8 keeps the pixels as they are.
        val_size: Number of validation images.
        test_size: Number of test images.
        **common: Arguments of :class:`~vqlab.data.images.base.ImageDataModule`.

    Example:
        >>> data = Digits(image_size=8)
        >>> data.channels, data.image_size, data.num_classes, data.train_size
        (1, 8, 10, 1437)
    """

    channels = 1
    num_classes = 10
    flip = False

    def __init__(self, image_size: Count = 32, val_size: Count = 180, test_size: Count = 180, **common: Any) -> None:
        super().__init__(**common)
        if val_size + test_size >= NUM_DIGITS:
            raise UserError(f"val_size + test_size must be below {NUM_DIGITS}, got {val_size + test_size}")
        self.image_size, self.val_size, self.test_size = image_size, val_size, test_size
        self.train_size = NUM_DIGITS - val_size - test_size

    def load_split(self, split: str) -> ImageTensors:
        from sklearn.datasets import load_digits  # takes a second to import

        digits = load_digits()
        images = torch.as_tensor(digits.images)[:, None] * (255 / 16)  # the pixels are counts from 0 to 16
        whole = ImageTensors(fit_square(images.round().byte(), self.image_size), torch.as_tensor(digits.target))
        order = torch.randperm(NUM_DIGITS, generator=torch.Generator().manual_seed(self.seed))
        parts = order.split([self.train_size, self.val_size, self.test_size])
        return whole.part(parts[SPLITS.index(split)])
