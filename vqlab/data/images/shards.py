"""Images from WebDataset's tar files, for sets that are too large for a folder of files, on a disk or behind a URL.

An index states where each image lies, so that any is read without what comes before it. Shapes: S shards, N images.
"""

import fcntl
import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import IO, Any, Literal

import fsspec
import numpy as np
import torch
from torch import Tensor

from vqlab.atomic_io import disk_errors
from vqlab.data.datamodule import Workers
from vqlab.data.files import counted, is_hidden, reading
from vqlab.data.images.base import ImageDataModule, channel_statistics
from vqlab.data.images.folder import EXTENSIONS, DecodedImages, decode_square, decoding_workers
from vqlab.data.split_folders import group_by_split, require_no_held_out
from vqlab.errors import UserError
from vqlab.validation import Count, Positive

INDEX = "index.npz"  # beside the shards
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "vqlab" / "shards"
GB = 10**9
OPEN = 64  # files that a process keeps open
WRITE_IT = f"run python -m vqlab.cli.write_shards --index FOLDER where the shards lie, which writes its {INDEX}"


@dataclass(frozen=True)
class ShardIndex:
    """The place of each image in the shards, in the order of the files."""

    names: np.ndarray  # (S,) paths of the shards from their root, with forward slashes
    lengths: np.ndarray  # (S,) size of each shard in bytes
    checksums: np.ndarray  # (S,) SHA-256 of each shard in hexadecimal digits, "" where it is not known
    shard: np.ndarray  # (N,) the shard of each image
    offset: np.ndarray  # (N,) its first byte in the shard
    size: np.ndarray  # (N,) its size in bytes
    label: np.ndarray  # (N,) its class, -1 for none

    def __len__(self) -> int:
        return len(self.shard)

    def part(self, shards: list[int]) -> "ShardIndex":
        """Return the index of some of the shards, given in ascending order."""
        chosen = np.isin(self.shard, shards)
        shard = np.searchsorted(shards, self.shard[chosen]).astype(self.shard.dtype)
        of_shards = (self.names[shards], self.lengths[shards], self.checksums[shards])
        return ShardIndex(*of_shards, shard, self.offset[chosen], self.size[chosen], self.label[chosen])


class ShardImages(DecodedImages):
    """Images of shards under a folder or URL."""

    def __init__(
        self, index: ShardIndex, root: str, size: int, channels: int, cache: str = str(CACHE), limit: float = 100 * GB
    ) -> None:
        super().__init__(torch.from_numpy(index.label).long(), size, channels)
        self.index, self.root = index, root.rstrip("/")
        self.cache, self.limit = (
            cache,
            limit,
        )  # folder for copies of shards from a URL, and their largest total in bytes

    def decode(self, index: int) -> Tensor:
        """Read and decode an image."""
        found, shard = self.index, self.index.shard[index]
        file = open_shard(f"{self.root}/{found.names[shard]}", str(found.checksums[shard]), self.cache, self.limit)
        content = os.pread(file.fileno(), int(found.size[index]), int(found.offset[index]))
        image = f"the image at byte {found.offset[index]} of {found.names[shard]}"
        with reading(image, "cannot be decoded ({reason}): write the shard again without it"):
            return decode_square(io.BytesIO(content), self.size, self.channels, image)


class ImageShards(ImageDataModule):
    """Images in WebDataset's tar files (``7.jpg``, ``7.cls``), on a disk, or behind a URL that fsspec reads.

    Splits are folders as in :class:`~vqlab.data.images.folder.ImageFolder`, or shards named like ``train-000.tar``;
    without shards for validation the last training shard is used. An epoch visits the shards in random order and mixes
    the images of ``shuffle_shards`` of them. The order depends on (seed, epoch) alone.

    ``python -m vqlab.cli.write_shards --index FOLDER`` writes the ``index.npz`` of existing shards, which a URL needs.
    Without it the headers of all shards are read at each start.

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
        UserError: If shards, index or images are missing or damaged, or an argument is out of range.

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
        """Return the test images, if there are any."""
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

    def _images(self, index: ShardIndex) -> ShardImages:
        cache = self.cache or str(CACHE)
        return ShardImages(index, self.path, self.image_size, self.channels, cache, self.cache_gb * GB)


def mixed_order(shard: Tensor, mixed: int, seed: int, epoch: int) -> Tensor:
    """Return an order of images, whose shards are ``shard`` (N,), in which each shard's lie within ``mixed`` shards."""
    generator = torch.Generator().manual_seed(seed + epoch)
    turn = torch.randperm(int(shard.max()) + 1, generator=generator)[shard.long()]
    return (turn + mixed * torch.rand(len(shard), generator=generator, dtype=torch.float64)).argsort()


def split_index(index: ShardIndex, path: str) -> dict[str, ShardIndex]:
    """Return the index of each split, named by folders or files; else the last training shard is for validation."""
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


# The index: read beside the shards, or made from the headers of the tar files.


def find_index(path: str) -> ShardIndex:
    """Return the index beside the shards, or read their headers."""
    file = f"{path.rstrip('/')}/{INDEX}"
    if "://" not in path and not os.path.exists(file):
        return index_shards(Path(path))
    with reading(file, f"cannot be read ({{reason}}): check the path and the network, or {WRITE_IT}"):
        with fsspec.open(file, "rb") as opened, np.load(io.BytesIO(opened.read()), allow_pickle=False) as arrays:
            index = ShardIndex(**{"checksums": np.full(len(arrays["names"]), ""), **arrays})
        for name, length in zip(index.names.tolist(), index.lengths.tolist(), strict=True):
            if ".." in name or "::" in name or name.startswith("/"):
                raise UserError(f"{file} names {name}, which does not lie beside it: {WRITE_IT}")
            if "://" not in path and os.path.getsize(Path(path, name)) != length:
                raise UserError(f"{Path(path, name)} has another size than {INDEX} states: {WRITE_IT}")
    return index


def index_shards(root: Path, checksums: bool = False) -> ShardIndex:
    """Read the headers of all ``*.tar`` under a folder; ``checksums`` reads each file to its end."""
    found = (file for file in root.rglob("*.tar") if not any(map(is_hidden, file.relative_to(root).parts)))
    files = sorted(file for file in found if file.is_file())
    if not files:
        problem = "holds no *.tar" if root.is_dir() else "is not a folder"
        raise UserError(f"{root} {problem}: set path=FOLDER to a folder of shards, or to its URL")
    parts = [np.array([*scan(file)], np.int64).reshape(-1, 3) for file in counted(files, len(files), "read", "shards")]
    offset, size, label = np.concatenate(parts).T
    if not len(offset):
        raise UserError(f"the {len(files)} shards of {root} hold no images: set path=FOLDER to another folder")
    return ShardIndex(
        names=np.array([file.relative_to(root).as_posix() for file in files]),
        lengths=np.array([file.stat().st_size for file in files], np.int64),
        checksums=np.array([checksum(file) if checksums else "" for file in files]),
        shard=np.repeat(np.arange(len(files), dtype=np.int32), [len(part) for part in parts]),
        offset=offset.copy(),
        size=size.astype(np.int32),
        label=label.astype(np.int32),
    )


def scan(file: Path) -> Iterator[tuple[int, int, int]]:
    """Yield offset, size in bytes and label of each image of a tar file.

    Consecutive members with the same path up to the first dot of the name are one example, as in WebDataset: ``7.jpg``
    is its image, ``7.cls``, if there, its class in digits.
    """
    with reading(file, "cannot be read as an uncompressed tar file ({reason}): write it again"):
        with tarfile.open(file, "r:") as tar:
            members = (
                member for member in tar if member.isfile() and not os.path.basename(member.name).startswith(".")
            )
            for _, example in groupby(members, key_of):
                image, label = None, -1
                for member in example:
                    kind = member.name.removeprefix(key_of(member)).lower()
                    if kind == ".cls":
                        text = tar.extractfile(member).read().strip()  # type: ignore[union-attr]
                        if not text.isdigit():
                            raise UserError(f"{member.name} in {file} is no class number: write its class in digits")
                        label = int(text)
                    elif image is None and kind in EXTENSIONS:
                        image = member
                if image is not None:
                    yield image.offset_data, image.size, label
        if tar.offset >= file.stat().st_size:  # the final block of zeros is missing: the file was cut off
            raise tarfile.ReadError("it ends early")


def key_of(member: tarfile.TarInfo) -> str:
    """Return the path up to the first dot of the name, which is the key of an example."""
    folder, slash, name = member.name.rpartition("/")
    return folder + slash + name.partition(".")[0]


# Shards from a URL: copies in a cache.


@lru_cache(maxsize=OPEN)
def open_shard(path: str, expected: str, cache: str, limit: float) -> IO[bytes]:
    """Open a shard, or its copy, for ``os.pread`` and keep it open; it can be read even after it was deleted."""
    if "://" in path:
        return open_copy(path, expected, Path(cache), limit)
    with reading(path, "cannot be opened ({reason}): set path=FOLDER to where the shards are"):
        return open(path, "rb")


def open_copy(url: str, expected: str, folder: Path, limit: float) -> IO[bytes]:
    """Open the copy of a URL, downloaded unless it is there; other processes that need it wait for the first."""
    copy = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.tar"
    partial = copy.with_suffix(".partial")
    with disk_errors(copy, "cache"):
        folder.mkdir(parents=True, exist_ok=True)
        with open(copy.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.exists() or checksum(copy) != expected:  # other shards lie at the URL now
                try:
                    with reading(url, "cannot be read ({reason}): check the path, the network and the key"):
                        filesystem, path = fsspec.url_to_fs(url)
                        filesystem.get_file(path, str(partial))
                    if checksum(partial) != expected:
                        raise UserError(f"{url} has another checksum than its index states: {WRITE_IT}")
                    os.replace(partial, copy)
                finally:
                    partial.unlink(missing_ok=True)
            os.utime(copy)
            file = open(copy, "rb")  # noqa: SIM115
    make_room(folder, limit, keep=copy)
    return file


def make_room(folder: Path, limit: float, keep: Path) -> None:
    """Delete the copies that were opened longest ago until all together take at most ``limit`` bytes."""
    found = []
    for copy in folder.glob("*.tar"):
        with suppress(FileNotFoundError):  # another process may delete it at the same time
            found.append((copy.stat().st_mtime, copy.stat().st_size, copy))
    total = sum(size for _, size, _ in found)
    for _, size, copy in sorted(found):
        if total > limit and copy != keep:
            copy.unlink(missing_ok=True)
            total -= size


def checksum(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
