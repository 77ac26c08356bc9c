"""Pack a folder of images into tar files for --data ImageShards, or write the index of existing tar files.

    python -m vqlab.cli.write_shards pictures shards
    python -m vqlab.cli.write_shards --index shards

The first command reads the same folders as --data ImageFolder, and writes each file unchanged to
``shards/train/000000.tar`` and so on, in a random order. If there are classes, the class index follows each image.
"""

import io
import sys
import tarfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from vqlab.atomic_io import write_atomic
from vqlab.cli.arguments import Parser
from vqlab.data.files import counted
from vqlab.data.images.folder import ImageFolder, label_files
from vqlab.data.images.shards import INDEX, index_shards
from vqlab.errors import UserError


def write_shards(source: Path, out: Path, shard_mb: float = 500, val_fraction: float = 0.05, seed: int = 0) -> None:
    """Write the images of a folder as shards of ``shard_mb`` megabytes, and their index last."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already: name a folder that is empty or new")
    folder = ImageFolder(str(source), val_fraction=val_fraction, seed=seed, num_workers=0)
    for split, files in folder.files.items():
        labels = label_files(files, folder.roots[split], folder.classes)
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed)).tolist()
        images = ((f"{place:09}", files[i], labels[i]) for place, i in enumerate(order))
        rest = counted(images, len(files), "wrote", f"images of {split}")
        for number, first in enumerate(rest):
            shard = out / split / f"{number:06}.tar"
            with write_atomic(shard, "OUT") as file, tarfile.open(fileobj=file, mode="w") as tar:
                for key, path, label in chain([first], rest):
                    _add(tar, key + path.suffix.lower(), path.read_bytes())
                    if label >= 0:
                        _add(tar, f"{key}.cls", str(label).encode())
                    if tar.offset >= shard_mb * 1e6:
                        break
    write_index(out)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # without owner and time, so that the same images give the same bytes
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write_index(root: Path) -> None:
    """Write the index of all shards under a folder."""
    index = index_shards(root, checksums=True)
    with write_atomic(root / INDEX, "the folder") as file:
        np.savez_compressed(file, **vars(index))
    print(f"{root / INDEX}: {len(index):,} images in {len(index.names):,} shards", file=sys.stderr)


def main(args: Sequence[str]) -> None:
    """Run the command."""
    parser = Parser(prog="python -m vqlab.cli.write_shards", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("source", type=Path, help="folder of images; with --index, of shards")
    add("out", type=Path, nargs="?", help="folder to write to, empty or new")
    add("--index", action="store_true", help="write the index of existing shards")
    add("--shard-mb", type=float, default=500, help="size of a shard in megabytes (default 500)")
    add("--val-fraction", type=float, default=0.05, help="fraction for validation (default 0.05)")
    add("--seed", type=int, default=0, help="seed of the split and the order (default 0)")
    options = parser.parse_args(args)
    if options.index:
        write_index(options.source)
    elif options.out is None:
        raise UserError("give the folder to write to: python -m vqlab.cli.write_shards FOLDER OUT")
    else:
        write_shards(options.source, options.out, options.shard_mb, options.val_fraction, options.seed)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"vqlab: error: {error}", file=sys.stderr)
        sys.exit(2)
