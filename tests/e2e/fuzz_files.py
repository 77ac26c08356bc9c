"""Damaged and malicious data files, drawn by a random number generator."""

import gzip
import io
import json
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import wavfile
from scipy.sparse import csr_matrix, save_npz

from tests.e2e.fuzz_damage import damage
from tests.e2e.fuzz_stock import SHORT, Stock
from tests.e2e.systems import MODELS
from tests.e2e.tiny import TRAINER
from tests.helpers.toy_fonts import box, build
from vqlab.cli.write_shards import write_shards

NAMES = ["a", "ä 字 b", "-x", "a'b", "%s{}", "a\nb", "x" * 200]
BOMB = gzip.compress(bytes(1 << 26), mtime=0) * 100  # 6.4 GB of zeros in as many kB
IMAGES = MODELS["VQVAE"]
TOPICS = ["--data.min_df=1", "--data.max_df=1.0"]

Written = tuple[list[str], list[Path]]  # options, and the files that may be spoiled


def file_case(rng: random.Random, folder: Path, stock: Stock) -> list[str]:
    """Return a training on files of which one is spoiled; a few are only unusual."""
    name, write = rng.choice(list(SOURCES.items()))
    options, files = write(rng, folder)
    path = rng.choice(files)
    way = rng.choice(["damage"] * 6 + ["own", "own", "link", "fifo", "folder", "gone", "fine"])
    match way:
        case "damage":
            damage(rng, path)
        case "own" if name in MALICE:
            path.write_bytes(rng.choice(MALICE[name])())
        case "link":
            path.unlink()
            path.symlink_to(rng.choice([path.name, ".", "..", "/dev/null", "/dev/zero", "missing"]))
        case "folder":
            path.unlink()
            path.mkdir()
        case "gone":
            path.unlink()
    return ["fit", *options, "--data.batch_size=4", *TRAINER, *SHORT]


def arrays(rng: random.Random, folder: Path) -> Written:
    path = folder / f"{rng.choice(NAMES)}{rng.choice(['.npz', '.npy'])}"
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16), np.uint8)
    with path.open("wb") as file:
        if path.suffix == ".npy":
            np.save(file, images)
        else:
            np.savez_compressed(file, x=images, y=np.arange(40) % 4)
    return [*IMAGES, "--data=ImageArrays", f"--data.path={path.name}"], [path]


def pictures(rng: random.Random, folder: Path) -> Written:
    files = []
    for number in range(12):
        path = folder / "images" / f"kind {number % 2} ü" / f"{number}{rng.choice(['.png', '.jpg', '.gif', '.bmp'])}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 18, 3), 20 * number, np.uint8)).save(path)
        files.append(path)
    options = ["--data=ImageFolder", "--data.path=images", "--data.image_size=16", "--data.val_fraction=0.3"]
    return [*IMAGES, *options, f"--data.verify={rng.choice(['true', 'false'])}"], files


def shards(rng: random.Random, folder: Path) -> Written:
    pictures(rng, folder)
    write_shards(folder / "images", folder / "shards", shard_mb=0.002, val_fraction=0.3)
    if rng.random() < 0.5:
        (folder / "shards/index.npz").unlink()
    files = sorted(path for path in (folder / "shards").rglob("*") if path.is_file())
    return [*IMAGES, "--data=ImageShards", "--data.path=shards", "--data.image_size=16"], files


def mnist(rng: random.Random, folder: Path) -> Written:
    raw, files = folder / "data/MNIST/raw", []
    raw.mkdir(parents=True)
    for split, count in (("train", 60), ("t10k", 20)):
        images = np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)
        for kind, shape, content in (
            ("images-idx3", (count, 28, 28), images.tobytes()),
            ("labels-idx1", (count,), bytes(range(10)) * (count // 10)),
        ):
            path = raw / f"{split}-{kind}-ubyte"
            path.write_bytes(struct.pack(f">{len(shape) + 1}I", 0x800 + len(shape), *shape) + content)
            files.append(path)
    return [*IMAGES, "--data=MNIST", "--data.val_size=20", "--data.image_size=16", "--data.download=false"], files


def cifar(rng: random.Random, folder: Path) -> Written:
    archive = folder / "data/cifar-10-python.tar.gz"
    archive.parent.mkdir()
    archive.write_bytes(tar_that_leaves())
    return [*IMAGES, "--data=CIFAR10"], [archive]


def signals(rng: random.Random, folder: Path) -> Written:
    kind = rng.choice(["npy", "npz", "csv", "wav"])
    files = []
    for number in range(6):
        values = np.random.default_rng(number).standard_normal((2, 300)).astype(np.float32)
        path = folder / "signals" / f"{number} {rng.choice(NAMES)}.{kind}"
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            match kind:
                case "npy":
                    np.save(file, values)
                case "npz":
                    np.savez(file, x=values, fs=100.0)
                case "csv":
                    np.savetxt(file, values.T, delimiter=",", header="a,b", comments="")
                case "wav":
                    wavfile.write(file, 100, values.T)
        files.append(path)
    options = ["--data=Signals", "--data.path=signals", "--data.length=64"]
    return [*MODELS["S4DVQ"], *options], files


def table(rng: random.Random, folder: Path) -> Written:
    kind = rng.choice(["csv", "tsv", "jsonl", "txt"])
    packed = rng.random() < 0.5
    path = folder / f"{rng.choice(NAMES)}.{kind}{'.gz' if packed else ''}"
    texts = [f"alpha beta word{'abcdefgh'[n % 8] * 3} gamma{'xyz'[n % 3]}" for n in range(60)]
    match kind:
        case "jsonl":
            text = "".join(json.dumps({"text": text, "label": "k"}) + "\n" for text in texts)
        case "txt":
            text = "\n".join(texts)
        case _:
            sign = "," if kind == "csv" else "\t"
            text = "\n".join([f"text{sign}label", *(f'"{text}"{sign}{n % 3}' for n, text in enumerate(texts))])
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if packed else text.encode())
    return [*MODELS["GANTopicModel"], "--data=TextFile", f"--data.path={path.name}", *TOPICS], [path]


def texts(rng: random.Random, folder: Path) -> Written:
    files = []
    for number in range(30):
        path = folder / "texts" / f"kind {number % 2}" / f"{number} {rng.choice(NAMES)}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"alpha beta word{'abcdefgh'[number % 8] * 3} gamma{'xyz'[number % 3]}")
        files.append(path)
    return [*MODELS["GANTopicModel"], "--data=TextFolder", "--data.path=texts", *TOPICS], files


def counts(rng: random.Random, folder: Path) -> Written:
    matrix = csr_matrix(np.random.default_rng(0).integers(0, 3, (60, 30)))
    with (folder / "counts ü.npz").open("wb") as file:
        save_npz(file, matrix)
    np.save(folder / "labels.npy", np.arange(60) % 3)
    (folder / "words.txt").write_text("\n".join(f"word{n}" for n in range(30)))
    options = ["--data.labels_path=labels.npy", "--data.vocabulary_path=words.txt", "--data.path=counts ü.npz"]
    files = [folder / name for name in ("counts ü.npz", "labels.npy", "words.txt")]
    return [*MODELS["GANTopicModel"], "--data=BagOfWords", *options], files


def fonts(rng: random.Random, folder: Path) -> Written:
    shapes = {0x41 + n: [box(100, 0, 200 + 10 * n, 400 + 10 * n)] for n in range(26)}
    cff = rng.random() < 0.5
    files = []
    for name, grow in (("source", 0), ("target", 60)):
        path = folder / f"{name} ü.{'otf' if cff else 'ttf'}"
        build(path, {c: [[(x + grow, y) for x, y in b] for b in bs] for c, bs in shapes.items()}, cff=cff, family=name)
        files.append(path)
    options = [f"--data.source={files[0].name}", f"--data.target={files[1].name}"]
    return [*MODELS["FontGAN"], "--data=FontPairs", "--data.image_size=32", "--data.cache=null", *options], files


def npy_of(shape: str, dtype: str = "|u1") -> bytes:
    """An npy file that says that it holds such a shape, and holds little."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(1000)


def npz_of(**members: bytes) -> bytes:
    """An npz archive of such members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header promises a large image."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "png")
    content = file.getvalue()
    head = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    import zlib

    return content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]


def wav_of(size: int) -> bytes:
    """A WAV whose data chunk claims ``size`` bytes."""
    head = b"RIFF" + struct.pack("<I", size) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 2, 100, 400, 4, 16)
    return head + b"data" + struct.pack("<I", size) + bytes(1000)


def tar_that_leaves() -> bytes:
    """An archive that wants to write beside and above the folder that it is unpacked in."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name in ("../evil", "/tmp/evil_of_vqlab", "cifar-10-batches-py/../../../evil"):
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"evil"))
    return file.getvalue()


HUGE = ["(1000000000, 16, 16)", "(99999999999999999999, 16, 16)", "(-1, 16, 16)", "(40, 0, 16)", "(2, 100000, 100000)"]
ARRAYS = [lambda shape=shape: npy_of(shape) for shape in [*HUGE, "()", "(1,)" * 3, "'x'", "[" * 60 + "]" * 60]]
ARRAYS += [lambda shape=shape: npz_of(x=npy_of(shape)) for shape in HUGE]
ARRAYS += [
    lambda: npz_of(**{"../../evil": npy_of("(40, 5, 5)"), "y": npy_of("(40,)", "<i8")}),
    lambda: npz_of(x=npy_of("(4, 8, 8)", "|O")),
    lambda: npz_of(x=npy_of("(2, 300)", "<f4"), fs=npy_of("(2,)", "<f8")),
    lambda: npz_of(x=npy_of("(40, 5, 5)"), y=npy_of("(40,)", "<u8")),
]
TEXTS = [
    lambda: BOMB,
    lambda: b"\xff\xfe" + "alpha beta".encode("utf-16-le"),
    lambda: b'{"text": ' + b"[" * 100_000 + b"\n",
    lambda: b'{"text": 1}\n{"text": null}\n',
    lambda: b'"' + b"a" * 1_000_000,
    lambda: b"alpha\x00beta\n" * 10,
]
MALICE: dict[str, list[Callable[[], bytes]]] = {
    "arrays": ARRAYS,
    "counts": ARRAYS,
    "shards": [*ARRAYS, lambda: tar_that_leaves()],
    "signals": [
        *ARRAYS,
        lambda: wav_of(0xFFFFFFF0),
        lambda: wav_of(3),
        lambda: b"a,b\n1,2\n3\n",
        lambda: b"nan,inf\n" * 300,
    ],
    "pictures": [lambda: png_of(60_000, 60_000), lambda: png_of(1, 2**31 - 1), lambda: png_of(12_000, 12_000)],
    "mnist": [lambda: struct.pack(">4I", 0x803, 2**31, 28, 28), lambda: struct.pack(">4I", 0x80D03, 60, 28, 28)],
    "table": TEXTS,
    "texts": TEXTS,
}
SOURCES: dict[str, Callable[[random.Random, Path], Written]] = {
    "arrays": arrays,
    "pictures": pictures,
    "shards": shards,
    "mnist": mnist,
    "cifar": cifar,
    "signals": signals,
    "table": table,
    "texts": texts,
    "counts": counts,
    "fonts": fonts,
}
