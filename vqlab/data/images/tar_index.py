"""Index of WebDataset's tar files: the place of each image, so that it is read without what comes before it.

Shapes: S shards, N images.
"""

import hashlib
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from posixpath import basename
from typing import IO

import numpy as np

from vqlab.data.files import counted, is_hidden, reading
from vqlab.data.images.folder import EXTENSIONS
from vqlab.errors import UserError

INDEX = "index.npz"  # beside the shards
WRITE_IT = f"run python -m vqlab.cli.write_shards --index FOLDER where the shards lie, which writes its {INDEX}"


@dataclass(frozen=True)
class TarIndex:
    """Images of tar files, in the order of the files."""

    names: np.ndarray  # (S,) paths of the shards from their root, with forward slashes
    lengths: np.ndarray  # (S,) size of each shard in bytes
    shard: np.ndarray  # (N,) the shard of each image
    offset: np.ndarray  # (N,) its first byte in the shard
    size: np.ndarray  # (N,) its size in bytes
    label: np.ndarray  # (N,) its class, -1 for none
    checksums: np.ndarray  # (S,) SHA-256 of each shard in hexadecimal digits, "" where it is not known

    def __len__(self) -> int:
        return len(self.shard)

    def part(self, shards: list[int]) -> "TarIndex":
        """Return the index of some of the shards, given in ascending order."""
        chosen = np.isin(self.shard, shards)
        shard = np.searchsorted(shards, self.shard[chosen]).astype(self.shard.dtype)
        images = (shard, self.offset[chosen], self.size[chosen], self.label[chosen])
        return TarIndex(self.names[shards], self.lengths[shards], *images, self.checksums[shards])


def index_shards(root: Path, checksums: bool = False) -> TarIndex:
    """Read the headers of all ``*.tar`` under a folder; ``checksums`` reads each file to its end.

    Raises:
        UserError: If there is none, one is damaged or compressed, or they hold no image.
    """
    found = (file for file in root.rglob("*.tar") if not any(map(is_hidden, file.relative_to(root).parts)))
    files = sorted(file for file in found if file.is_file())
    if not files:
        problem = "holds no *.tar" if root.is_dir() else "is not a folder"
        raise UserError(f"{root} {problem}: set path=FOLDER to a folder of shards, or to its URL")
    parts = [np.array([*scan(file)], np.int64).reshape(-1, 3) for file in counted(files, len(files), "read", "shards")]
    offset, size, label = np.concatenate(parts).T
    if not len(offset):
        raise UserError(f"the {len(files)} shards of {root} hold no images: set path=FOLDER to another folder")
    return TarIndex(
        names=np.array([file.relative_to(root).as_posix() for file in files]),
        lengths=np.array([file.stat().st_size for file in files], np.int64),
        shard=np.repeat(np.arange(len(files), dtype=np.int32), [len(part) for part in parts]),
        offset=offset.copy(),
        size=size.astype(np.int32),
        label=label.astype(np.int32),
        checksums=np.array([checksum(file) if checksums else "" for file in files]),
    )


def checksum(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def scan(file: Path) -> Iterator[tuple[int, int, int]]:
    """Yield offset, size in bytes and label of each image of a tar file.

    Consecutive members with the same path up to the first dot of the name are one example, as in WebDataset: ``7.jpg``
    is its image, ``7.cls``, if there, its class in digits.
    """
    unreadable = "cannot be read as an uncompressed tar file ({reason}): write it again"
    with reading(file, unreadable), tarfile.open(file, "r:") as tar:
        members = (member for member in tar if member.isfile() and not basename(member.name).startswith("."))
        for _, example in groupby(members, lambda member: _split_name(member)[0]):
            image, label = None, -1
            for member in example:
                kind = _split_name(member)[1]
                if kind == "cls":
                    label = _class(tar.extractfile(member), file, member)
                elif image is None and f".{kind.lower()}" in EXTENSIONS:
                    image = member
            if image is not None:
                yield image.offset_data, image.size, label
        if tar.offset >= file.stat().st_size:  # the final block of zeros is missing: the file was cut off
            raise tarfile.ReadError("it ends early")


def _split_name(member: tarfile.TarInfo) -> tuple[str, str]:
    """Return the path up to the first dot of the name, which is the key of an example, and what follows the dot."""
    stem, _, kind = basename(member.name).partition(".")
    return member.name.removesuffix(basename(member.name)) + stem, kind


def _class(opened: IO[bytes] | None, file: Path, member: tarfile.TarInfo) -> int:
    text = opened.read(32).strip() if opened is not None else b""
    if not re.fullmatch(rb"\d{1,9}", text):
        raise UserError(f"{member.name} in {file} is no class number: write its class in digits, 0 the first")
    return int(text)


def read_index(file: IO[bytes], name: str) -> TarIndex:
    """Return the index in an open file; raise UserError if it is damaged or names files outside its folder."""
    with reading(name, f"cannot be read as an index of shards ({{reason}}): {WRITE_IT}"):
        with np.load(file, allow_pickle=False) as arrays:
            index = TarIndex(**{"checksums": np.full(len(arrays["names"]), ""), **arrays})
        if not is_sound(index):
            raise UserError(f"{name} is not an index of shards that lie beside it: {WRITE_IT}")
    return index


def is_sound(index: TarIndex) -> bool:
    """Whether the arrays fit together, each image lies in its shard, and each shard lies below the root."""
    texts, of_shards = (index.names, index.checksums), (index.names, index.lengths, index.checksums)
    of_images = (index.shard, index.offset, index.size, index.label)
    return bool(
        all(array.dtype.kind == "U" for array in texts)
        and all(array.dtype.kind == "i" for array in (index.lengths, *of_images))
        and all(array.shape == (len(index.names),) for array in of_shards)
        and all(array.shape == (len(index),) for array in of_images)
        and min(len(index.names), len(index)) > 0
        and min(array.min() for array in (index.lengths, index.shard, index.offset, index.size)) >= 0
        and index.shard.max() < len(index.names)
        and (index.size <= index.lengths[index.shard] - index.offset).all()  # a sum may exceed int64
        and all(map(is_below, index.names.tolist()))
    )


def is_below(name: str) -> bool:
    """Whether a path with forward slashes leads below its root, on a disk and behind a URL (``::`` chains two).

    Example:
        >>> is_below("train/0.tar"), is_below("/etc/0.tar"), is_below("train/../../0.tar"), is_below("a::file://b")
        (True, False, False, False)
    """
    return not {"", ".", ".."} & {*name.split("/")} and "::" not in name
