"""Base of the image DataModules. Shapes: N images of a split, B batch, C channels, H = W = image_size."""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import RandAugment
from torchvision.transforms.v2.functional import center_crop, resize

from vqlab.data.datamodule import Batch, Split, SplitDataModule, Workers, draws_of_batch
from vqlab.errors import UserError
from vqlab.nn import ImageFormat, ValueRange
from vqlab.training.data_format import Format, check_format
from vqlab.validation import Count, NonNegativeInt

IMAGES = ("image", "labelled_image", "source", "target")  # entries of a batch


class ImageTensors(Split):
    """Images (N, C, H, W) uint8 in memory with labels (N,), -1 by default."""

    def __init__(self, images: Tensor, labels: Tensor | None = None) -> None:
        self.images = images
        self.labels = torch.full((len(images),), -1) if labels is None else labels.long()

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Batch:
        index = torch.as_tensor(indices)
        return {"image": self.images[index], "label": self.labels[index], "index": index}

    def part(self, positions: Tensor) -> "ImageTensors":
        """Return the images at ``positions``."""
        return ImageTensors(self.images[positions], self.labels[positions])


class ImageDataModule(SplitDataModule):
    """Images with labels, in batches of ``image``, ``label`` and ``index``.

    A subclass sets ``channels``, ``image_size``, ``num_classes`` and ``train_size``, from which the model is built, and
    defines :meth:`load_split`, or :meth:`load_train_val` and :meth:`load_test`. Splits hold uint8 images.

    Args:
        batch_size: Images per batch and device.
        value_range: Range of the pixel values: unit [0, 1], signed [-1, 1], or standardized, (x - mean) / std per
            channel of the training images.
        augment: Shift training images, and mirror half of them unless it changes the class.
        max_shift: Largest shift in pixels. Default: 1/8 of the side.
        strong_augment: Add ``strong_image`` to training batches: ``image`` after RandAugment (two operations of
            magnitude 10) and a grey square of half the side (FixMatch; 0.3 ms per image on a CPU core).
        labels_per_class: Number of labelled training images per class, drawn by ``seed``. Default: all.
        labelled_batch_size: Labelled images per batch and device with ``labels_per_class``. Default: ``batch_size``.
        num_workers: Processes that load batches; 0 loads in the main process.
        seed: Seed of the split, of the order and of the augmentation.

    Shape:
        batch["image"] (B, C, H, W) float32 in ``value_range``; batch["label"] (B,) int64, -1 for none; batch["index"]
        (B,) int64, the position in the split. With ``labels_per_class`` training batches are as in
        :class:`PartlyLabelled`.
    """

    channels: int
    image_size: int
    num_classes: int
    train_size: int
    classes: list[str] = []  # names of the classes, if known  # noqa: RUF012
    flip = True  # whether a mirrored image keeps its class
    examples = "images"
    modality = "image"
    statistics_limit: int | None = None  # number of training images for the statistics, all by default

    def __init__(
        self,
        batch_size: Count = 128,
        value_range: Literal["unit", "signed", "standardized"] = "signed",
        augment: bool = False,
        max_shift: NonNegativeInt | None = None,
        strong_augment: bool = False,
        labels_per_class: Count | None = None,
        labelled_batch_size: Count | None = None,
        num_workers: Workers = 0,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(batch_size, num_workers, seed)
        self.value_range, self.augment, self.strong_augment = value_range, augment, strong_augment
        self.max_shift = max_shift
        self.labels_per_class, self.labelled_batch_size = labels_per_class, labelled_batch_size

    @cached_property
    def _train_val(self) -> tuple[Split, Split]:
        train, val = self.load_train_val()
        if self.labels_per_class is None:
            return train, val
        chosen = choose_labelled(train.labels, self.labels_per_class, self.seed)  # type: ignore[attr-defined]
        return PartlyLabelled(train, chosen, self.labelled_batch_size or self.batch_size, self.seed), val

    def collate(self) -> Callable[[Batch], Batch]:
        return partial(to_float, pixel_range=self.pixel_range)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation per channel of the training images in [0, 1]."""
        return channel_statistics(self._train_val[0], self.statistics_limit)

    @property
    def image_format(self) -> ImageFormat:
        """Channels, size, value range and number of classes, for a model."""
        return ImageFormat(self.channels, self.image_size, self.pixel_range, self.num_classes)

    @cached_property
    def pixel_range(self) -> ValueRange:
        """The value range with its statistics."""
        return ValueRange(self.value_range, *(self.statistics() if self.value_range == "standardized" else ()))

    def describe(self) -> Format:
        return {"value_range": self.value_range}

    def fitted(self) -> Format:
        found: Format = {"classes": self._class_names()}
        if self.value_range == "standardized":
            found["statistics"] = [list(self.pixel_range.mean), list(self.pixel_range.std)]
        return found

    def apply_format(self, trained: Format) -> None:
        super().apply_format(trained)
        if self.value_range == "standardized" and (statistics := trained.get("statistics")):
            mean, std = statistics
            if len(mean) != self.channels:
                raise UserError(f"channels must be {len(mean)} as in the checkpoint's data, got {self.channels}")
            self.__dict__["pixel_range"] = ValueRange("standardized", mean, std)
        if names := trained.get("classes"):
            mine = self._class_names()
            if not set(mine) <= set(names):
                check_format({"classes": names}, {"classes": mine}, lambda *_: "path=FOLDER to folders of these names")
            self.classes, self.num_classes = [*map(str, names)], len(names)
            for cached in ("_train_val", "_test"):
                self.__dict__.pop(cached, None)

    def _class_names(self) -> list[str]:
        return self.classes or [str(number) for number in range(self.num_classes)]

    def augmented(self, batch: Batch, generator: torch.Generator) -> Batch:
        if self.augment:
            names = [name for name in IMAGES if name in batch]
            moved = {name: shift_and_flip(batch[name], generator, self.flip, self.max_shift) for name in names}
            batch = batch | moved
        if self.strong_augment:
            batch = batch | {"strong_image": strongly_augmented(batch["image"], self.pixel_range, generator)}
        return batch


class PartlyLabelled(Split):
    """All images of a split without labels (``label`` is -1), and a batch of the few labelled images.

    ``labelled_image`` and ``labelled_label`` are drawn from the positions ``chosen``, with ``draws_of_batch``.
    """

    def __init__(self, data: Any, chosen: Tensor, batch_size: int, seed: int = 0) -> None:
        self.data, self.chosen, self.batch_size, self.seed = data, chosen, batch_size, seed

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, indices: list[int]) -> Batch:
        batch = self.data.__getitems__(indices)
        generator = draws_of_batch(self.seed, indices)
        rounds = -(-self.batch_size // len(self.chosen))
        order = torch.cat([torch.randperm(len(self.chosen), generator=generator) for _ in range(rounds)])
        labelled = self.data.__getitems__(self.chosen[order[: self.batch_size]].tolist())
        batch["label"] = torch.full_like(batch["label"], -1)
        return batch | {"labelled_image": labelled["image"], "labelled_label": labelled["label"]}


def choose_labelled(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """Return the sorted positions of ``per_class`` images of each class in ``labels`` (N,), which are -1 for none."""
    classes = labels[labels >= 0].unique().tolist()
    if not classes:
        raise UserError("the images have no labels: set labels_per_class=null, or use data with classes")
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for number in classes:
        of_class = (labels == number).nonzero()[:, 0]
        if len(of_class) < per_class:
            limit = f"{len(of_class)}, the number of images of class {number}"
            raise UserError(f"labels_per_class must be at most {limit}, got {per_class}")
        chosen.append(of_class[torch.randperm(len(of_class), generator=generator)[:per_class]])
    return torch.cat(chosen).sort().values


def to_float(batch: Batch, pixel_range: ValueRange) -> Batch:
    """Convert the uint8 images of a batch to float32 in ``pixel_range``."""
    return batch | {name: pixel_range.encode(batch[name].float().div_(255)) for name in IMAGES if name in batch}


def shift_and_flip(images: Tensor, generator: torch.Generator, flip: bool, max_shift: int | None = None) -> Tensor:
    """Shift images (B, C, S, S) with reflection, by up to S / 8 if not said, and mirror half of them if ``flip``."""
    count, size, device = len(images), images.shape[-1], images.device
    reach = size // 8 if max_shift is None else max_shift  # 4 pixels at 32 are usual for CIFAR-10
    if reach >= size:
        raise UserError(f"max_shift must be less than the side of the images, {size}, got {max_shift}")
    padded = F.pad(images, (reach,) * 4, mode="reflect") if reach else images
    corner = torch.randint(0, 2 * reach + 1, (2, count, 1), generator=generator, device=device)
    rows, columns = corner + torch.arange(size, device=device)  # (B, S) each
    if flip:
        mirrored = torch.rand(count, 1, generator=generator, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    which = torch.arange(count, device=device)[:, None, None]
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def strongly_augmented(images: Tensor, pixel_range: ValueRange, generator: torch.Generator) -> Tensor:
    """Change images (B, C, S, S) in ``pixel_range`` by RandAugment, and cover a square of half the side with grey."""
    change = RandAugment(num_ops=2, magnitude=10)
    pixels = (pixel_range.decode(images) * 255).round().to(torch.uint8)
    with torch.random.fork_rng([images.device] if images.is_cuda else []):
        torch.manual_seed(int(torch.randint(2**63 - 1, (1,), generator=generator, device=generator.device)))
        changed = torch.stack([change(image) for image in pixels])
        size, half = images.shape[-1], images.shape[-1] // 2
        corner = torch.randint(-(half // 2), size - half // 2, (2, len(images), 1), device=images.device)
    distance = torch.arange(size, device=images.device) - corner
    rows, columns = (distance >= 0) & (distance < half)  # (B, S) each
    covered = (rows[:, :, None] & columns[:, None, :])[:, None]
    return pixel_range.encode(torch.where(covered, 0.5, changed / 255))


def fit_square(images: Tensor, size: int) -> Tensor:
    """Resize uint8 images (N, C, H, W) so that the shorter side is ``size``, and crop the centre square."""
    if images.shape[-2:] == (size, size):
        return images
    # Antialiasing needs several times the memory of the images.
    return torch.cat([center_crop(resize(part, [size], antialias=True), [size]) for part in images.split(1024)])


def channel_statistics(data: Split, limit: int | None = None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of (``limit`` random) uint8 images, divided by 255."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:limit]
    parts = (data.__getitems__(part.tolist())["image"] for part in order.split(500))
    # Histograms are exact, and as small for any number of images.
    histogram = sum(torch.stack([torch.bincount(x.flatten(), minlength=256) for x in part.unbind(1)]) for part in parts)
    values = torch.arange(256, dtype=torch.float64) / 255
    frequency = histogram.double() / histogram.sum(1, keepdim=True)  # type: ignore[union-attr]
    mean = frequency @ values
    variance = frequency @ values**2 - mean**2
    std = variance.clamp(min=0).sqrt().clamp(min=1 / 255)  # of a constant channel it is 0
    return tuple(round(m, 4) for m in mean.tolist()), tuple(round(s, 4) for s in std.tolist())
