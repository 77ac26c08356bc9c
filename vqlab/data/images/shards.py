"""Images from tar files, for sets that are too large for a folder of files: as WebDataset has them, near or far."""

import io
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import fsspec
import torch
from torch import Tensor

from vqlab.data.datamodule import Batch, Split, require_at_least
from vqlab.data.files import reading
from vqlab.data.images.base import ImageDataModule, channel_statistics
from vqlab.data.images.folder import check_decoding, decode_square, decoding_workers
from vqlab.data.images.shard_files import is_url, open_shard, require_length, url_errors
from vqlab.data.images.tar_index import INDEX, WRITE_IT, TarIndex, index_shards, read_index
from vqlab.data.split_folders import group_by_split, require_no_held_out
from vqlab.errors import UserError

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "vqlab" / "shards"
GB = 10**9


class ShardImages(Split):
    """Images of tar files, read and decoded when they are asked for.

    Args:
        index: Where they lie.
        read: Returns the bytes of a shard from an offset, of a size: ``read(name, length, checksum, offset, size)``.
        size: Height and width that the images get.
        channels: 3 for colour, 1 for grey.
    """

    def __init__(
        self, index: TarIndex, read: Callable[[str, int, str, int, int], bytes], size: int, channels: int
    ) -> None:
        self.index, self.read, self.size, self.channels = index, read, size, channels
        self.labels = torch.from_numpy(index.label).long()

    def __len__(self) -> int:
        return len(self.index)

    def __getitems__(self, indices: list[int]) -> Batch:
        index = torch.as_tensor(indices)
        return {"image": torch.stack([self._decode(i) for i in indices]), "label": self.labels[index], "index": index}

    def _decode(self, i: int) -> Tensor:
        at = self.index
        name, length = str(at.names[at.shard[i]]), int(at.lengths[at.shard[i]])
        checksum = str(at.checksums[at.shard[i]])
        data = self.read(name, length, checksum, int(at.offset[i]), int(at.size[i]))
        image = f"the image at byte {at.offset[i]} of {name}"
        with reading(image, "cannot be decoded ({reason}): write the shard again without it"):
            return decode_square(io.BytesIO(data), self.size, self.channels, image)


class ImageShards(ImageDataModule):
    """Images in tar files (WebDataset's: ``7.jpg``, ``7.cls``), on a disk, or behind a URL that fsspec reads.

    Folders ``path/train``, ``path/val`` and ``path/test`` are the splits, also under other usual names (``training``,
    ``valid``, ``validation``, ``dev``, ``testing``, ``eval``, capital letters or not), and so are shards named like
    ``train-000.tar``; where none is for validation, the last training shard is. The order of an epoch goes through the
    shards in random order, images mixed among ``shuffle_shards`` of them, so each is read once an epoch and little of
    the set is needed at a time. It depends on (seed, epoch) alone: a run stopped anywhere goes on at its place, on any
    number of processes. Images are resized (shorter side, antialiased) and the centre is cropped.

    ``python -m vqlab.cli.write_shards FOLDER OUT`` makes such shards of a folder of images, and ``--index FOLDER`` the
    ``index.npz`` of shards that are there, with the checksums that copies of a URL are verified by; without it the
    headers of all shards are read at each start, and a URL cannot be read.

    Args:
        path: Folder, or URL of one: https, s3, gs, hf, ... (``pip install s3fs`` and the like).
        image_size: Height and width.
        channels: 3 for colour, 1 for grey.
        shuffle_shards: Shards among which images are mixed; more mix better and need more of them at a time.
        cache: Folder for copies of shards from a URL; null takes ``~/.cache/vqlab/shards``.
        cache_gb: Gigabytes that these copies may take; the one least recently opened makes room.
        num_workers: Processes that decode; null takes one per core, up to 4.
        **common: ``batch_size``, ``value_range``, ``augment``, ``labels_per_class``, ``seed``: see
            :class:`~vqlab.data.images.base.ImageDataModule`.

    Shape:
        See :class:`~vqlab.data.images.base.ImageDataModule`.

    Raises:
        UserError: If the shards or their index are missing or damaged, or an argument is out of range; later, if an
            image cannot be decoded or a shard not be fetched.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from vqlab.cli.write_shards import write_shards
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("cat/1", "cat/2", "dog/1", "dog/2"):
        ...     (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        ...     Image.new("RGB", (40, 30)).save(folder / "in" / f"{name}.png")
        >>> write_shards(folder / "in", folder / "out", val_fraction=0.25)
        >>> data = ImageShards(str(folder / "out"), image_size=16, batch_size=2, num_workers=0)
        >>> data.num_classes, data.train_size, next(iter(data.train_dataloader()))["image"].shape
        (2, 3, torch.Size([2, 3, 16, 16]))
    """

    test_mend = "add a folder `test` beside `train` and `val` under --data.path, or use `vqlab validate`"

    def __init__(
        self,
        path: str,
        image_size: int = 256,
        channels: Literal[1, 3] = 3,
        shuffle_shards: int = 8,
        cache: str | None = None,
        cache_gb: float = 100.0,
        num_workers: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(num_workers=decoding_workers(num_workers), **common)
        check_decoding(image_size, channels, mend=256)
        require_at_least("shuffle_shards", shuffle_shards, 1, mend=8)
        if not cache_gb > 0:
            raise UserError(f"cache_gb must be positive, got {cache_gb}: set --data.cache_gb=100")
        self.path, self.image_size, self.channels, self.shuffle_shards = path, image_size, channels, shuffle_shards
        limit = int(min(cache_gb * GB, 2**62))
        self._read = partial(read_at, path.rstrip("/"), cache or str(CACHE), limit)
        self._whole = find_index(path)
        self._index = split_index(self._whole, path)
        self.num_classes = int(self._index["train"].label.max()) + 1
        self.train_size = len(self._index["train"])

    def load_train_val(self) -> tuple[ShardImages, ShardImages]:
        """Return the training and the validation images."""
        return self._images(self._index["train"]), self._images(self._index["val"])

    def load_test(self) -> ShardImages | None:
        """Return the images of ``path/test``."""
        return self._images(self._index["test"]) if "test" in self._index else None

    def load_all(self) -> ShardImages:
        """Return the images of all shards."""
        return self._images(self._whole)

    def order(self) -> Callable[[int], Tensor]:
        """Shards in random order, images mixed among neighbours."""
        return partial(mixed_order, torch.from_numpy(self._index["train"].shard), self.shuffle_shards, self.seed)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation per channel of 1,000 images of the first training shard."""
        train = self._index["train"]
        return channel_statistics(self._images(train.part([int(train.shard[0])])), limit=1000)

    def _images(self, index: TarIndex) -> ShardImages:
        return ShardImages(index, self._read, self.image_size, self.channels)


def mixed_order(shard: Tensor, mixed: int, seed: int, epoch: int) -> Tensor:
    """Return an order of images in which each shard's lie within the length of ``mixed`` shards.

    Shape:
        shard (N,), the shard of each image -> (N,) positions.

    Example:
        >>> order = mixed_order(torch.arange(6) // 2, 1, seed=0, epoch=0)
        >>> [len(set(pair)) for pair in (order // 2).view(3, 2).tolist()], sorted(order.tolist())
        ([1, 1, 1], [0, 1, 2, 3, 4, 5])
    """
    generator = torch.Generator().manual_seed(seed + epoch)
    turn = torch.randperm(int(shard.max()) + 1, generator=generator)[shard.long()]
    return (turn + mixed * torch.rand(len(shard), generator=generator, dtype=torch.float64)).argsort()


def find_index(path: str) -> TarIndex:
    """Return the index beside the shards, or read their headers.

    Raises:
        UserError: If there are no shards, or no index behind a URL.
    """
    if is_url(path):
        url = f"{path.rstrip('/')}/{INDEX}"
        try:
            with url_errors(url), fsspec.open(url, "rb") as file:
                content = io.BytesIO(file.read())
        except UserError as error:
            raise UserError(f"{error}; where it is missing, {WRITE_IT}") from error
        index = read_index(content, url)
        if not all(index.checksums.tolist()):
            raise UserError(f"{url} has no checksums, by which copies are known to be whole: {WRITE_IT}")
        return index
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"{path} is not a folder: set --data.path to a folder of shards, or its URL")
    if not (root / INDEX).exists():
        return index_shards(root)
    try:
        with open(root / INDEX, "rb") as opened:
            index = read_index(opened, str(root / INDEX))
    except OSError as error:
        raise UserError(f"{root / INDEX} cannot be opened ({error.strerror}): remove it, or {WRITE_IT}") from error
    for name, length in zip(index.names.tolist(), index.lengths.tolist(), strict=True):
        require_length(f"{path}/{name}", os.path.getsize(root / name) if (root / name).is_file() else None, length)
    return index


def split_index(index: TarIndex, path: str) -> dict[str, TarIndex]:
    """Return the index of each split, named by folders or file names; else the last training shard is for validation.

    Raises:
        UserError: If training or validation has no images, or some shards are of a split and others of none.
    """
    names = index.names.tolist()
    groups = group_by_split([name.partition("/")[0].removesuffix(".tar") for name in names], path)
    train = groups.pop("") if "" in groups else groups["train"]
    require_no_held_out((names[i] for i in train), path)
    groups["train"] = train if "val" in groups else train[:-1]
    groups.setdefault("val", train[-1:])
    parts = {split: index.part(shards) for split, shards in groups.items() if shards}
    for split in ("train", "val"):
        if split not in parts or not len(parts[split]):
            raise UserError(
                f"{path} leaves no images for {split}: put shards into its folders train and val, or at least two "
                "with images beside each other, of which the last is for validation"
            )
    return parts


def read_at(root: str, cache: str, limit: int, name: str, length: int, checksum: str, offset: int, size: int) -> bytes:
    """Return ``size`` bytes of a shard from ``offset``; see :func:`~vqlab.data.images.shard_files.open_shard`."""
    return os.pread(open_shard(f"{root}/{name}", length, cache, limit, checksum).fileno(), size, offset)
