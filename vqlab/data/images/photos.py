"""Photographs from the installed packages scikit-image, scikit-learn and matplotlib: no download."""

from importlib.resources import as_file, files
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image

from vqlab.data.images.base import ImageDataModule, ImageTensors
from vqlab.data.split_folders import SPLITS
from vqlab.validation import Count, Range

# (package, file). The functions of scikit-image may download.
TRAIN = (
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/rocket.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
)
HELD_OUT = (("skimage", "data/chelsea.png"), ("sklearn", "datasets/images/china.jpg"))
LARGEST = 225  # half the width of the smallest held-out photograph


class Photos(ImageDataModule):
    """Random crops of eight photographs, 3 x 32 x 32, without labels: the default without a network.

    Training crops come from six photographs; half of the crops have permuted channels, half are mirrored. Validation
    and test crops come from the left and right halves of two others. Place and scale (1/8 to 1) are random.

    Args:
        image_size: Height and width of a crop.
        num_train: Number of training crops.
        num_val: Number of validation crops, and of test crops.
        **common: Arguments of :class:`~vqlab.data.images.base.ImageDataModule`.

    Example:
        >>> data = Photos(num_train=256, num_val=8, batch_size=4)
        >>> next(iter(data.train_dataloader()))["image"].shape
        torch.Size([4, 3, 32, 32])
    """

    channels = 3
    num_classes = 0

    def __init__(
        self,
        image_size: Annotated[int, Range(1, LARGEST)] = 32,
        num_train: Count = 20_000,
        num_val: Count = 1_000,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.image_size, self.train_size, self.num_val = image_size, num_train, num_val

    def load_split(self, split: str) -> ImageTensors:
        rng = np.random.default_rng([self.seed, SPLITS.index(split)])
        if split == "train":
            crops = random_crops([read_photo(*name) for name in TRAIN], self.train_size, self.image_size, rng)
            return ImageTensors(vary(crops, torch.Generator().manual_seed(self.seed)))
        photos = [read_photo(*name) for name in HELD_OUT]
        halves = [np.split(photo, [photo.shape[1] // 2], axis=1)[split == "test"] for photo in photos]
        return ImageTensors(random_crops(halves, self.num_val, self.image_size, rng))


def read_photo(package: str, file: str) -> np.ndarray:
    """Return a photograph (H, W, 3) uint8 from the files of an installed package."""
    with as_file(files(package) / file) as path, Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def random_crops(photos: list[np.ndarray], count: int, size: int, rng: np.random.Generator) -> torch.Tensor:
    """Return crops (count, 3, size, size) of photographs (H, W, 3) at random places and scales, in random order."""
    crops = np.empty((count, size, size, 3), np.uint8)
    for photo, positions in zip(photos, np.array_split(rng.permutation(count), len(photos)), strict=True):
        smallest = max(1 / 8, size / min(photo.shape[:2]))
        # Few scales per photograph, because resizing takes much longer than cropping.
        for part in np.array_split(positions, 16):
            scale = float(np.exp(rng.uniform(np.log(smallest), 0)))
            height, width = (max(size, round(side * scale)) for side in photo.shape[:2])
            scaled = np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BICUBIC))
            tops = rng.integers(0, height - size + 1, len(part))
            lefts = rng.integers(0, width - size + 1, len(part))
            for position, top, left in zip(part, tops, lefts, strict=True):
                crops[position] = scaled[top : top + size, left : left + size]
    return torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous()


def vary(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Permute the channels of half of the images (N, 3, S, S), and mirror half of them."""
    count = len(images)
    order = torch.rand(count, 3, generator=generator).argsort(1)
    order[torch.rand(count, generator=generator) < 0.5] = torch.arange(3)
    images = images[torch.arange(count)[:, None], order]
    mirrored = torch.rand(count, generator=generator) < 0.5
    images[mirrored] = images[mirrored].flip(3)
    return images
