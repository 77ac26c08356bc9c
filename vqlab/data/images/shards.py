"""Images from WebDataset tar files on a disk or behind a URL, for data sets that are too large for a folder of files.

An index holds the place of each image, so that images are read at random. Shapes: S shards, N images.
"""

import fcntl
import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import IO, Any, Literal

import fsspec
import numpy as np
import torch
from torch import Tensor

from vqlab.atomic_io import disk_errors, write_atomic
from vqlab.data.datamodule import Workers
from vqlab.data.files import counted, list_files, reading
from vqlab.data.images.base import ImageDataModule, channel_statistics
from vqlab.data.images.folder import DEFAULT_WORKERS, EXTENSIONS, DecodedImages, decode_square
from vqlab.data.split_folders import group_by_split, require_no_held_out
from vqlab.errors import UserError
from vqlab.validation import Count, Positive

INDEX = "index.npz"  # beside the shards
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "vqlab" / "shards"
KEY = re.compile("(.*/)?[^.]*")  # of an example: the path up to the first dot of the file name
WRITE_INDEX = f"write {INDEX} with python -m vqlab.cli.write_shards --index FOLDER"


@dataclass(frozen=True)
class ShardIndex:
    """The place of each image in the shards, in the order of the files."""

    names: np.ndarray  # (S,) paths of the shards from their root, with forward slashes
    lengths: np.ndarray  # (S,) size of each shard in bytes
    checksums: np.ndarray  # (S,) SHA-256 of each shard in hexadecimal digits, "" if unknown
    shard: np.ndarray  # (N,) position of each image's shard in names
    offset: np.ndarray  # (N,) first byte of each image in its shard
    size: np.ndarray  # (N,) size of each image in bytes
    label: np.ndarray  # (N,) class of each image, -1 for none

    def __len__(self) -> int:
        return len(self.shard)

    def part(self, shards: list[int]) -> "ShardIndex":
        """Return the index of some shards, given in ascending order."""
        chosen = np.isin(self.shard, shards)
        shard = np.searchsorted(shards, self.shard[chosen]).astype(self.shard.dtype)
        of_shards = (self.names[shards], self.lengths[shards], self.checksums[shards])
        return ShardIndex(*of_shards, shard, self.offset[chosen], self.size[chosen], self.label[chosen])


class ShardImages(DecodedImages):
    """Images of shards under a folder or URL."""

    def __init__(
        self, index: ShardIndex, root: str, size: int, channels: int, cache: str = str(CACHE), limit: float = 100e9
    ) -> None:
        super().__init__(torch.from_numpy(index.label).long(), size, channels)
        self.index, self.root = index, root.rstrip("/")
        self.cache, self.limit = cache, limit  # folder for copies from a URL, and their maximum total size in bytes

    def decode(self, index: int) -> Tensor:
        found, shard = self.index, self.index.shard[index]
        file = open_shard(f"{self.root}/{found.names[shard]}", str(found.checksums[shard]), self.cache, self.limit)
        content = os.pread(file.fileno(), int(found.size[index]), int(found.offset[index]))
        image = f"the image at byte {found.offset[index]} of {found.names[shard]}"
        with reading(image, "cannot be decoded ({reason}): write the shard again without it"):
            return decode_square(io.BytesIO(content), self.size, self.channels, image)


class ImageShards(ImageDataModule):
    """Images in WebDataset tar files (``7.jpg``, ``7.cls``) on a disk or behind a URL that fsspec reads.

    Splits are folders as in :class:`~vqlab.data.images.folder.ImageFolder`, or shards with names like
    ``train-000.tar``. Without validation shards the last training shard is used. An epoch visits the shards in random
    order and mixes ``shuffle_shards`` of them. ``python -m vqlab.cli.write_shards --index FOLDER`` writes the
    ``index.npz`` of existing shards. A URL needs it; a folder without it is read through at each start.

    Args:
        path: Folder or its URL: https, s3, gs, hf, ... (``pip install s3fs`` and similar).
        image_size: Height and width.
        channels: 3 for colour, 1 for grey.
        shuffle_shards: Number of shards whose images are mixed. A larger number mixes better and opens more shards.
        cache: Folder for copies of shards from a URL. Default: ``~/.cache/vqlab/shards``.
        cache_gb: Maximum size of these copies in gigabytes; the least recently opened are deleted.
        num_workers: Processes that decode. Default: one per core, up to 4.
        **common: Arguments of :class:`~vqlab.data.images.base.ImageDataModule`.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from vqlab.cli.write_shards import write_shards
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in "1234":
        ...     Image.new("RGB", (40, 30)).save(folder / f"{name}.png")
        >>> write_shards(folder, folder / "shards", val_fraction=0.25)
        >>> data = ImageShards(str(folder / "shards"), image_size=16, batch_size=2, num_workers=0)
        >>> data.train_size, next(iter(data.train_dataloader()))["image"].shape
        (3, torch.Size([2, 3, 16, 16]))
    """

    test_hint = "add a folder `test` beside `train` and `val`, or use `vqlab validate`"

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
        super().__init__(num_workers=DEFAULT_WORKERS if num_workers is None else num_workers, **common)
        self.path, self.image_size, self.channels, self.shuffle_shards = path, image_size, channels, shuffle_shards
        self.cache, self.cache_gb = cache, cache_gb
        self._whole = find_index(path)
        self._index = split_index(self._whole, path)
        self.num_classes = int(self._index["train"].label.max()) + 1
        self.train_size = len(self._index["train"])

    def load_split(self, split: str) -> ShardImages | None:
        return self._images(self._index[split]) if split in self._index else None

    def load_all(self) -> ShardImages:
        return self._images(self._whole)

    def order(self, epoch: int) -> Tensor:
        return mixed_order(torch.from_numpy(self._index["train"].shard), self.shuffle_shards, self.seed, epoch)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation per channel of 1,000 images of the first training shard."""
        train = self._index["train"]
        return channel_statistics(self._images(train.part([int(train.shard[0])])), limit=1000)

    def _images(self, index: ShardIndex) -> ShardImages:
        cache = self.cache or str(CACHE)
        return ShardImages(index, self.path, self.image_size, self.channels, cache, self.cache_gb * 1e9)


def mixed_order(shard: Tensor, mixed: int, seed: int, epoch: int) -> Tensor:
    """Return a random order (N,) that mixes ``mixed`` shards at a time; ``shard`` (N,) is the shard of each image."""
    generator = torch.Generator().manual_seed(seed + epoch)
    turn = torch.randperm(int(shard.max()) + 1, generator=generator)[shard.long()]
    return (turn + mixed * torch.rand(len(shard), generator=generator, dtype=torch.float64)).argsort()


def split_index(index: ShardIndex, path: str) -> dict[str, ShardIndex]:
    """Return the index of each split from the names of folders or files. Default for val: the last training shard."""
    names = index.names.tolist()
    groups = group_by_split([name.partition("/")[0].removesuffix(".tar") for name in names], path)
    train = groups.pop("") if "" in groups else groups["train"]
    require_no_held_out((names[i] for i in train), path)
    groups["train"] = train if "val" in groups else train[:-1]
    groups.setdefault("val", train[-1:])
    parts = {split: index.part(shards) for split, shards in groups.items() if shards}
    for split in ("train", "val"):
        if not len(parts.get(split, ())):
            raise UserError(f"{path} has no images for {split}: add shards to train/ and val/, or at least two shards")
    return parts


def find_index(path: str) -> ShardIndex:
    """Read the index beside the shards, or the headers of the shards if there is none."""
    file = f"{path.rstrip('/')}/{INDEX}"
    if "://" not in path and not os.path.exists(file):
        return index_shards(Path(path))
    with reading(file, f"cannot be read ({{reason}}): check the path and the network, or {WRITE_INDEX}"):
        with fsspec.open(file, "rb") as opened, np.load(io.BytesIO(opened.read()), allow_pickle=False) as arrays:
            index = ShardIndex(**{"checksums": np.full(len(arrays["names"]), ""), **arrays})
        for name, length in zip(index.names.tolist(), index.lengths.tolist(), strict=True):
            if ".." in name or "::" in name or name.startswith("/"):
                raise UserError(f"{file} names {name}, which is not in its folder: {WRITE_INDEX}")
            if "://" not in path and os.path.getsize(Path(path, name)) != length:
                raise UserError(f"{Path(path, name)} has another size than {INDEX} states: {WRITE_INDEX}")
    return index


def index_shards(root: Path, checksums: bool = False) -> ShardIndex:
    """Return the index of all ``*.tar`` under a folder from their headers, and from all bytes for ``checksums``."""
    files = list_files(root, (".tar",), "shards")
    parts = [np.array([*scan(file)], np.int64).reshape(-1, 3) for file in counted(files, len(files), "read", "shards")]
    offset, size, label = np.concatenate(parts).T
    if not len(offset):
        raise UserError(f"the {len(files)} shards of {root} hold no images: set path=FOLDER to another folder")
    names = np.array([file.relative_to(root).as_posix() for file in files])
    lengths = np.array([file.stat().st_size for file in files], np.int64)
    sums = np.array([checksum(file) if checksums else "" for file in files])
    shard = np.repeat(np.arange(len(files), dtype=np.int32), [len(part) for part in parts])
    return ShardIndex(names, lengths, sums, shard, offset.copy(), size.astype(np.int32), label.astype(np.int32))


def scan(file: Path) -> Iterator[tuple[int, int, int]]:
    """Yield offset, size in bytes and label of each image of a tar file. Members with the same key are one example."""
    damaged = "cannot be read as an uncompressed tar file ({reason}): write it again"
    with reading(file, damaged), tarfile.open(file, "r:") as tar:
        members = (file for file in tar if file.isfile() and not os.path.basename(file.name).startswith("."))
        for key, example in groupby(members, lambda member: KEY.match(member.name)[0]):  # type: ignore[index]
            image, label = None, -1
            for member in example:
                extension = member.name.removeprefix(key).lower()
                if extension == ".cls":
                    text = tar.extractfile(member).read().strip()  # type: ignore[union-attr]
                    if not text.isdigit():
                        raise UserError(f"{member.name} in {file} is not a class number: write the class in digits")
                    label = int(text)
                elif image is None and extension in EXTENSIONS:
                    image = member
            if image is not None:
                yield image.offset_data, image.size, label
        if tar.offset >= file.stat().st_size:  # the final block of zeros is missing
            raise tarfile.ReadError("it is truncated")


@lru_cache(maxsize=64)  # open files per process
def open_shard(path: str, expected: str, cache: str, limit: float) -> IO[bytes]:
    """Open a shard for ``os.pread``, or its copy in ``cache`` if ``path`` is a URL, and keep it open.

    The first process that needs a copy downloads it, and the others wait. The copies take at most ``limit`` bytes.
    """
    if "://" not in path:
        with reading(path, "cannot be opened ({reason}): set path=FOLDER to where the shards are"):
            return open(path, "rb")
    copy = Path(cache, f"{hashlib.sha256(path.encode()).hexdigest()[:32]}.tar")
    unreadable = "cannot be read ({reason}): check the path, the network and the key"
    with disk_errors(copy, "cache"):
        copy.parent.mkdir(parents=True, exist_ok=True)
        with open(copy.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.exists() or checksum(copy) != expected:  # the shard behind the URL has changed
                with write_atomic(copy, "cache") as partial, reading(path, unreadable):
                    filesystem, remote = fsspec.url_to_fs(path)
                    filesystem.get_file(remote, partial.name)
                    if checksum(Path(partial.name)) != expected:
                        raise UserError(f"{path} has another checksum than its index states: {WRITE_INDEX}")
            os.utime(copy)
            file = open(copy, "rb")  # noqa: SIM115
    found = []
    for other in copy.parent.glob("*.tar"):
        with suppress(FileNotFoundError):  # another process deleted it
            found.append((other.stat().st_mtime, other.stat().st_size, other))
    total = sum(size for _, size, _ in found)
    for _, size, other in sorted(found):  # the least recently opened first
        if total > limit and other != copy:
            other.unlink(missing_ok=True)
            total -= size
    return file


def checksum(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
