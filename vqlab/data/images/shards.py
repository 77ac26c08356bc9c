"""Images from WebDataset's tar files, for sets that are too large for a folder of files, on a disk or behind a URL."""

import fcntl
import hashlib
import io
import os
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any, Literal

import fsspec
import torch
from torch import Tensor

from vqlab.atomic_io import disk_errors
from vqlab.data.datamodule import Batch, Split, Workers
from vqlab.data.files import reading
from vqlab.data.images.base import ImageDataModule, channel_statistics
from vqlab.data.images.folder import decode_square, decoding_workers
from vqlab.data.images.tar_index import INDEX, WRITE_IT, TarIndex, checksum, index_shards, read_index
from vqlab.data.split_folders import group_by_split, require_no_held_out
from vqlab.errors import UserError
from vqlab.validation import Count, Positive

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "vqlab" / "shards"
GB = 10**9
OPEN = 64  # files that a process keeps open
AGAIN = "copy it again, or write the index again by python -m vqlab.cli.write_shards --index FOLDER"
UNREADABLE_URL = "cannot be read ({reason}): check the path, the network and the key"


class ShardImages(Split):
    """Images of tar files under a folder or URL, decoded on access to squares of ``size``.

    Copies of shards from a URL lie in the folder ``cache`` and take up to ``limit`` bytes.
    """

    def __init__(
        self, index: TarIndex, root: str, size: int, channels: int, cache: str = str(CACHE), limit: float = 100 * GB
    ) -> None:
        self.index, self.root, self.size, self.channels = index, root.rstrip("/"), size, channels
        self.cache, self.limit = cache, limit
        self.labels = torch.from_numpy(index.label).long()

    def __len__(self) -> int:
        return len(self.index)

    def __getitems__(self, indices: list[int]) -> Batch:
        index = torch.as_tensor(indices)
        return {"image": torch.stack([self._decode(i) for i in indices]), "label": self.labels[index], "index": index}

    def _decode(self, i: int) -> Tensor:
        found, shard = self.index, self.index.shard[i]
        path, length = f"{self.root}/{found.names[shard]}", int(found.lengths[shard])
        opened = open_shard(path, length, str(found.checksums[shard]), self.cache, self.limit)
        content = os.pread(opened.fileno(), int(found.size[i]), int(found.offset[i]))
        image = f"the image at byte {found.offset[i]} of {found.names[shard]}"
        with reading(image, "cannot be decoded ({reason}): write the shard again without it"):
            return decode_square(io.BytesIO(content), self.size, self.channels, image)


class ImageShards(ImageDataModule):
    """Images in WebDataset's tar files (``7.jpg``, ``7.cls``), on a disk, or behind a URL that fsspec reads.

    Folders ``path/train``, ``path/val`` and ``path/test`` are the splits, also under other usual names (``training``,
    ``valid``, ``validation``, ``dev``, ``testing``, ``eval``, capital letters or not), and so are shards named like
    ``train-000.tar``; without shards for validation the last training shard is used. An epoch visits the shards in
    random order and mixes the images of ``shuffle_shards`` of them, so each shard is read once an epoch. The order
    depends on (seed, epoch) alone: a stopped run resumes at its place, on any number of processes. Images are resized
    (shorter side, antialiased) and the centre is cropped.

    ``python -m vqlab.cli.write_shards FOLDER OUT`` packs a folder of images into shards, and ``--index FOLDER`` writes
    the ``index.npz`` of existing shards, with checksums that verify copies from a URL. Without it the headers of all
    shards are read at each start, and a URL cannot be read.

    Args:
        path: Folder, or URL of one: https, s3, gs, hf, ... (``pip install s3fs`` and the like).
        image_size: Height and width.
        channels: 3 for colour, 1 for grey.
        shuffle_shards: Number of shards among which images are mixed; more mix better and are needed at a time.
        cache: Folder for copies of shards from a URL. Default: ``~/.cache/vqlab/shards``.
        cache_gb: Gigabytes that these copies may take; the least recently opened are deleted.
        num_workers: Processes that decode. Default: one per core, up to 4.
        **common: Arguments of :class:`~vqlab.data.images.base.ImageDataModule`.

    Raises:
        UserError: If the shards or their index are missing or damaged, or an argument is out of range; during
            training, if an image cannot be decoded or a shard cannot be fetched.

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

    test_mend = "add a folder `test` beside `train` and `val`, or use `vqlab validate`"

    def __init__(
        self,
        path: str,
        image_size: Count = 256,
        channels: Literal[1, 3] = 3,
        shuffle_shards: Count = 8,
        cache: str | None = None,
        cache_gb: Positive = 100.0,
        num_workers: Workers | None = None,
        **common: Any,
    ) -> None:
        super().__init__(num_workers=decoding_workers(num_workers), **common)
        self.path, self.image_size, self.channels, self.shuffle_shards = path, image_size, channels, shuffle_shards
        self.cache, self.cache_gb = cache, cache_gb
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
        cache = self.cache or str(CACHE)
        return ShardImages(index, self.path, self.image_size, self.channels, cache, self.cache_gb * GB)


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


def is_url(path: str) -> bool:
    """Whether fsspec reads a path: ``https://...``, ``s3://...``."""
    return "://" in path


def find_index(path: str) -> TarIndex:
    """Return the index beside the shards, or read their headers.

    Raises:
        UserError: If there are no shards, a URL has no index, or a shard has another size than its index states.
    """
    file = f"{path.rstrip('/')}/{INDEX}"
    if is_url(path):
        with reading(file, f"{UNREADABLE_URL}; if the file is missing, {WRITE_IT}"), fsspec.open(file, "rb") as opened:
            content = io.BytesIO(opened.read())
        index = read_index(content, file)
        if not all(index.checksums.tolist()):
            raise UserError(f"{file} has no checksums, which verify the copies: {WRITE_IT}")
        return index
    if not os.path.exists(file):
        return index_shards(Path(path))
    with reading(file, f"cannot be opened ({{reason}}): remove it, or {WRITE_IT}"), open(file, "rb") as opened:
        index = read_index(opened, file)
    for name, length in zip(index.names.tolist(), index.lengths.tolist(), strict=True):
        shard = Path(path, name)
        require_length(str(shard), shard.stat().st_size if shard.is_file() else None, length)  # now, not in training
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
                f"{path} leaves no images for {split}: add shards to train/ and val/, or at least two shards "
                "with images (the last is for validation)"
            )
    return parts


@lru_cache(maxsize=OPEN)
def open_shard(path: str, length: int, expected: str, cache: str, limit: float) -> IO[bytes]:
    """Open a shard for ``os.pread`` and keep it open; an open shard can be read even after it was deleted.

    Raises:
        UserError: If it is missing, or has another length or (of a URL) checksum than its index states.
    """
    if is_url(path):
        file = _open_copy(path, expected, Path(cache), limit)
    else:
        with reading(path, "cannot be opened ({reason}): set path=FOLDER to where the shards are"):
            file = open(path, "rb")  # noqa: SIM115
    require_length(path, os.fstat(file.fileno()).st_size, length)
    return file


def require_length(path: str, found: int | None, length: int) -> None:
    """Raise UserError unless a shard has the size that its index states; ``found`` is None without a file."""
    if found != length:
        got = "is missing" if found is None else f"has {found} bytes"
        raise UserError(f"{path} {got} where its index states {length} bytes: {AGAIN}")


def _open_copy(url: str, expected: str, folder: Path, limit: float) -> IO[bytes]:
    """Open the copy of a URL, downloaded unless it is there; other processes that need it wait for the first."""
    copy = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.tar"
    partial = copy.with_suffix(".partial")
    with disk_errors(copy, "cache"):
        folder.mkdir(parents=True, exist_ok=True)
        with open(copy.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.exists() or checksum(copy) != expected:  # other shards lie at the URL now
                try:
                    with reading(url, UNREADABLE_URL):
                        filesystem, path = fsspec.url_to_fs(url)
                        filesystem.get_file(path, str(partial))
                    if checksum(partial) != expected:
                        raise UserError(f"{url} has another checksum than its index states: {AGAIN}")
                    os.replace(partial, copy)
                finally:
                    partial.unlink(missing_ok=True)
            os.utime(copy)
            file = open(copy, "rb")  # noqa: SIM115
    _make_room(folder, limit, keep=copy)
    return file


def _make_room(folder: Path, limit: float, keep: Path) -> None:
    found = []
    for copy in folder.glob("*.tar"):
        with suppress(FileNotFoundError):  # another process may delete it at the same time
            found.append((copy.stat().st_mtime, copy.stat().st_size, copy))
    total = sum(size for _, size, _ in found)
    for _, size, copy in sorted(found):
        if total > limit and copy != keep:
            copy.unlink(missing_ok=True)
            total -= size
