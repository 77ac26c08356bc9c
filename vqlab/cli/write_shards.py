"""Packs a folder of images into tar files for --data ImageShards, or writes the index of tar files that are there.

    python -m vqlab.cli.write_shards pictures shards
    python -m vqlab.cli.write_shards --index shards

The first takes the folders that --data ImageFolder takes, and each file as it is, into ``shards/train/000000.tar`` and
so on, in an order drawn by ``--seed``; a class in digits beside each image of a set with classes, as WebDataset has it.
"""

import io
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import torch

from vqlab.atomic_io import write_atomic
from vqlab.cli.parser import Parser, as_script
from vqlab.data.files import counted
from vqlab.data.images.folder import ImageFolder, label_files
from vqlab.data.images.tar_index import INDEX, index_shards, save_index
from vqlab.errors import UserError

MB = 10**6


def write_shards(source: Path, out: Path, shard_mb: float = 500, val_fraction: float = 0.05, seed: int = 0) -> None:
    """Write the images of a folder as shards, and their index last.

    Args:
        source: The folder, see :class:`~vqlab.data.images.folder.ImageFolder`.
        out: Folder to write to; must be empty or not exist.
        shard_mb: Megabytes of a shard.
        val_fraction: Share of the images for validation, where there is no ``source/val``.
        seed: Seed of that split and of the order.

    Raises:
        UserError: If there are no images, ``out`` holds files, or the disk refuses.
    """
    if not shard_mb > 0:
        raise UserError(f"shard_mb must be positive, got {shard_mb}: use --shard-mb 500")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already: name a folder that is empty or new")
    folder = ImageFolder(str(source), val_fraction=val_fraction, seed=seed, num_workers=0)
    for split, files in folder.files.items():
        labels = label_files(files, folder.roots[split], folder.classes)
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed)).tolist()
        _write([files[i] for i in order], [labels[i] for i in order], out / split, int(shard_mb * MB))
    write_index(out)


def write_index(root: Path) -> None:
    """Write the index of all shards under a folder.

    Raises:
        UserError: If there is none, or one is damaged.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: name the folder of the shards")
    index = index_shards(root, checksums=True)
    with write_atomic(root / INDEX, "the folder") as file:
        save_index(index, file)
    print(f"{root / INDEX}: {len(index):,} images in {len(index.names):,} shards", file=sys.stderr)


def _write(files: list[Path], labels: list[int], folder: Path, most: int) -> None:
    """Write shards of about ``most`` bytes, each at least one image."""
    rest = counted(enumerate(zip(files, labels, strict=True)), len(files), "wrote", f"images of {folder.name}")
    entry = next(rest, None)
    number = 0
    while entry is not None:
        with write_atomic(folder / f"{number:06}.tar", "OUT") as file, tarfile.open(fileobj=file, mode="w") as tar:
            while entry is not None and (tar.offset == 0 or tar.offset < most):
                i, (path, label) = entry
                content = path.read_bytes()
                _add(tar, f"{i:09}{path.suffix.lower()}", content)
                if label >= 0:
                    _add(tar, f"{i:09}.cls", str(label).encode())
                entry = next(rest, None)
        number += 1


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # without owner and time: the same images give the same bytes
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def main(args: Sequence[str]) -> None:
    """Do what the command line says."""
    parser = Parser(prog="python -m vqlab.cli.write_shards", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder of images; with --index, of shards")
    parser.add_argument("out", type=Path, nargs="?", help="folder to write to, empty or new")
    parser.add_argument("--index", action="store_true", help="write the index of shards that are there")
    parser.add_argument("--shard-mb", type=float, default=500, help="megabytes of a shard (default 500)")
    parser.add_argument("--val-fraction", type=float, default=0.05, help="for validation (default 0.05)")
    parser.add_argument("--seed", type=int, default=0, help="of the split and the order (default 0)")
    options = parser.parse_args(args)
    if options.index:
        write_index(options.source)
    elif options.out is None:
        raise UserError("give the folder to write to: python -m vqlab.cli.write_shards FOLDER OUT")
    else:
        write_shards(options.source, options.out, options.shard_mb, options.val_fraction, options.seed)


if __name__ == "__main__":
    as_script(main)
