"""Where the images lie in tar files as WebDataset has them, so that each can be read without what comes before it.

Shapes: S shards, N images.
"""

import hashlib
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from vqlab.data.files import counted, is_hidden
from vqlab.data.images.folder import EXTENSIONS
from vqlab.errors import UserError

INDEX = "index.npz"  # beside the shards
WRITE_IT = f"run python -m vqlab.cli.write_shards --index FOLDER where the shards lie, which writes its {INDEX}"


@dataclass(frozen=True)
class TarIndex:
    """Images of tar files, in the order of the files.

    Args:
        names: (S,) paths of the shards from their root, with forward slashes.
        lengths: (S,) bytes of each shard.
        shard: (N,) the shard of each image.
        offset: (N,) its first byte in the shard.
        size: (N,) its bytes.
        label: (N,) its class, -1 for none.
        checksums: (S,) SHA-256 of each shard in hexadecimal digits, "" where it is not known.
    """

    names: np.ndarray
    lengths: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    label: np.ndarray
    checksums: np.ndarray

    def __len__(self) -> int:
        return len(self.shard)

    def part(self, shards: list[int]) -> "TarIndex":
        """Return the index of some of the shards."""
        of_part = np.isin(self.shard, shards)
        number = np.zeros(len(self.names), self.shard.dtype)
        number[shards] = np.arange(len(shards))
        images = (number[self.shard[of_part]], self.offset[of_part], self.size[of_part], self.label[of_part])
        return TarIndex(self.names[shards], self.lengths[shards], *images, self.checksums[shards])


def index_shards(root: Path, checksums: bool = False) -> TarIndex:
    """Read the headers of all ``*.tar`` under a folder.

    Args:
        root: The folder.
        checksums: Whether the checksums are computed, which takes reading all of each file.

    Raises:
        UserError: If there is none, one is damaged or compressed, or they hold no image.
    """
    found = (file for file in root.rglob("*.tar") if not any(map(is_hidden, file.relative_to(root).parts)))
    files = sorted(file for file in found if file.is_file())
    if not files:
        raise UserError(f"{root} holds no *.tar: set --data.path to a folder of shards")
    parts = [
        np.array(list(scan(file)), np.int64).reshape(-1, 3) for file in counted(files, len(files), "read", "shards")
    ]
    if not sum(map(len, parts)):
        raise UserError(f"the *.tar under {root} hold no images: set --data.path to a folder of shards with images")
    names = np.array([file.relative_to(root).as_posix() for file in files])
    lengths = np.array([file.stat().st_size for file in files], np.int64)
    offset, size, label = np.concatenate(parts).T
    shard = np.repeat(np.arange(len(files), dtype=np.int32), [len(part) for part in parts])
    digests = np.array([checksum(file) if checksums else "" for file in files])
    return TarIndex(names, lengths, shard, offset.copy(), size.astype(np.int32), label.astype(np.int32), digests)


def checksum(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def scan(file: Path) -> Iterator[tuple[int, int, int]]:
    """Yield offset, bytes and label of each image of a tar file.

    Consecutive members with one name up to its first dot are one example, as in WebDataset: ``7.jpg`` is its image,
    ``7.cls``, if there, its class in digits.
    """
    key, image, label = "", None, -1
    length = file.stat().st_size
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                if not member.isfile() or name.startswith("."):
                    continue
                stem, _, kind = name.partition(".")
                if f"{folder}/{stem}" != key:
                    if image is not None:
                        yield *image, label
                    key, image, label = f"{folder}/{stem}", None, -1
                if kind == "cls":
                    label = _class(tar.extractfile(member), file, member)
                elif image is None and f".{kind.lower()}" in EXTENSIONS:
                    image = (member.offset_data, member.size)
            if tar.offset >= length:  # no block of zeros ends it, so whatever was cut off left no trace
                raise tarfile.ReadError("it ends early")
    except UserError:
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:  # ValueError: a number of a header
        raise UserError(f"{file} cannot be read as an uncompressed tar file ({error}): write it again") from error
    if image is not None:
        yield *image, label


def save_index(index: TarIndex, file: IO[bytes]) -> None:
    """Write an index as .npz, without pickles."""
    np.savez_compressed(file, **vars(index))


def read_index(file: IO[bytes], name: str) -> TarIndex:
    """Return the index in an open file that messages call ``name``.

    Raises:
        UserError: If it is none, or names files outside its folder.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            index = TarIndex(**{"checksums": np.full(len(arrays["names"]), ""), **arrays})
        sound = is_sound(index)
    except MemoryError as error:
        raise UserError(f"not enough memory to read {name}: free some, or {WRITE_IT}") from error
    except (ValueError, TypeError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{name} cannot be read as an index of shards: {WRITE_IT}") from error
    if not sound:
        raise UserError(f"{name} is no index of shards that lie beside it: {WRITE_IT}")
    return index


def is_sound(index: TarIndex) -> bool:
    """Return whether the arrays fit each other, each image lies in its shard, and each shard below the root."""
    shards, images = len(index.names), len(index.shard)
    numbers = (index.lengths, index.shard, index.offset, index.size, index.label)
    return bool(
        all(array.ndim == 1 for array in vars(index).values())
        and index.names.dtype.kind == index.checksums.dtype.kind == "U"
        and all(array.dtype.kind == "i" for array in numbers)
        and len(index.lengths) == len(index.checksums) == shards
        and all(len(array) == images for array in (index.offset, index.size, index.label))
        and images > 0
        and index.shard.min() >= 0
        and index.shard.max() < shards
        and index.offset.min() >= 0
        and index.size.min() >= 0
        and index.lengths.min() >= 0
        and (index.size <= index.lengths[index.shard] - index.offset).all()  # a sum may exceed int64
        and all(is_below(name) for name in index.names.tolist())
    )


def is_below(name: str) -> bool:
    """Return whether a path with forward slashes leads below its root, on a disk and behind a URL (``::`` chains two).

    Example:
        >>> is_below("train/0.tar"), is_below("/etc/0.tar"), is_below("train/../../0.tar"), is_below("a::file://b")
        (True, False, False, False)
    """
    return not {"", ".", ".."} & {*name.split("/")} and "::" not in name


def _class(opened: IO[bytes] | None, file: Path, member: tarfile.TarInfo) -> int:
    text = opened.read(32) if opened is not None else b""
    if not text.strip().isdigit():
        raise UserError(f"{member.name} in {file} is no class number: write its class in digits, 0 the first")
    return int(text)
