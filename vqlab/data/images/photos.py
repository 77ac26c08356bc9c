"""Photographs from the wheels of scikit-image, scikit-learn and matplotlib: real images without a download."""

from importlib.resources import as_file, files
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image

from vqlab.data.images.base import ImageDataModule, ImageTensors
from vqlab.validation import Count, Range

# (package, file); the files are read directly, because scikit-image's own functions may download.
TRAIN = (
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/rocket.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
)
HELD_OUT = (
    ("skimage", "data/chelsea.png"),
    ("sklearn", "datasets/images/china.jpg"),
)
LARGEST = 225  # half the width of the smallest held-out photograph
SMALLEST_SCALE = 0.125
SCALES_PER_PHOTO = 16


class Photos(ImageDataModule):
    """Random crops of eight photographs, 3 x 32 x 32, without labels: the default without a network.

    Training crops come from six photographs; half of them have their colour channels permuted, and half are mirrored. A
    cat and a pagoda are held out: validation crops come from their left halves, test crops from their right halves.
    Each crop has a random place and a random scale between 1/8 (or what makes the crop fit) and 1 of the photograph.

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

    def load_train_val(self) -> tuple[ImageTensors, ImageTensors]:
        """Return crops of the training photographs and of the left halves of those held out."""
        photos = [read_photo(*name) for name in TRAIN]
        train = self._crops(photos, self.train_size, stream=0)
        train.images = vary(train.images, torch.Generator().manual_seed(self.seed))
        left = [photo[:, : photo.shape[1] // 2] for photo in (read_photo(*name) for name in HELD_OUT)]
        return train, self._crops(left, self.num_val, stream=1)

    def load_test(self) -> ImageTensors:
        """Return crops of the right halves of the photographs held out."""
        right = [photo[:, photo.shape[1] // 2 :] for photo in (read_photo(*name) for name in HELD_OUT)]
        return self._crops(right, self.num_val, stream=2)

    def _crops(self, photos: list[np.ndarray], count: int, stream: int) -> ImageTensors:
        return ImageTensors(random_crops(photos, count, self.image_size, np.random.default_rng([self.seed, stream])))


def read_photo(package: str, file: str) -> np.ndarray:
    """Return a photograph (H, W, 3) uint8 from an installed package's own files."""
    with as_file(files(package) / file) as path, Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def random_crops(photos: list[np.ndarray], count: int, size: int, rng: np.random.Generator) -> torch.Tensor:
    """Cut squares (count, 3, size, size) out of photographs (H, W, 3) at random places and scales, in random order."""
    crops = np.empty((count, size, size, 3), np.uint8)
    for photo, positions in zip(photos, np.array_split(rng.permutation(count), len(photos)), strict=True):
        smallest = max(SMALLEST_SCALE, size / min(photo.shape[:2]))
        # A few scales per photograph, since resizing costs far more than cutting.
        for part in np.array_split(positions, SCALES_PER_PHOTO):
            scale = float(np.exp(rng.uniform(np.log(smallest), 0)))
            height, width = (max(size, round(side * scale)) for side in photo.shape[:2])
            scaled = np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BICUBIC))
            tops = rng.integers(0, height - size + 1, len(part))
            lefts = rng.integers(0, width - size + 1, len(part))
            for position, top, left in zip(part, tops, lefts, strict=True):
                crops[position] = scaled[top : top + size, left : left + size]
    return torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous()


def vary(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Put the channels of half of the images (N, 3, S, S) in a random order, and mirror half of them."""
    count = len(images)
    order = torch.rand(count, 3, generator=generator).argsort(1)
    order[torch.rand(count, generator=generator) < 0.5] = torch.arange(3)
    images = images[torch.arange(count)[:, None], order]
    mirrored = torch.rand(count, generator=generator) < 0.5
    images[mirrored] = images[mirrored].flip(3)
    return images
