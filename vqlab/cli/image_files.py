"""What ``vqlab encode`` and ``vqlab decode`` do with images, by a CodePrior or a tokenizer."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vqlab.cli.output_file import OutputFile
from vqlab.data.files import list_files, reading
from vqlab.data.images.arrays import IMAGE_NAMES, as_tensors, by_split
from vqlab.data.images.folder import EXTENSIONS, decode_square
from vqlab.errors import UserError
from vqlab.interop.image_file import FORMAT, ImageCodec, pack_images, unpack_images
from vqlab.metrics import psnr
from vqlab.nn import ImageFormat


class ImageFiles:
    """Images to ``.vqi`` files, and back to a PNG, or an npz file of several images."""

    suffix = FORMAT.suffix

    def __init__(self, model: Any, candidates: int = 1) -> None:
        self.codec = ImageCodec(model.to("cuda" if torch.cuda.is_available() else "cpu"), candidates)

    def encode(self, source: Path, target: Path, array: str | None, axes: str | None) -> Iterator[OutputFile]:
        """Yield one file with all images of ``source``."""
        if axes:
            raise UserError(f"axes is for signals, got {axes!r}: leave --axes out")
        images = read_images(source, array, self.codec.images)
        codes = self.codec.encode(images)
        data = pack_images(codes, self.codec)
        x, x_hat = images / 255, self.codec.decode(codes) / 255
        rates = f"{describe_size(len(codes), len(data))} ({self.codec.fixed_rate:.2f} at log2 K bits per code)"
        yield OutputFile(target, data, f"{rates}, PSNR {psnr(x_hat, x):.2f} dB")

    def decode(self, data: bytes, name: str, target: Path) -> OutputFile:
        """Return the images in the content of a file ``name``."""
        images = self.codec.decode(unpack_images(data, self.codec, name)).permute(0, 2, 3, 1).numpy()
        pixels = images if images.shape[-1] == 3 else images[..., 0]
        file = io.BytesIO()
        if len(images) == 1:
            Image.fromarray(pixels[0]).save(file, "png")
        else:
            np.savez(file, x=pixels)
        path = target.with_name(f"{target.name}.{'png' if len(images) == 1 else 'npz'}")
        return OutputFile(path, file.getvalue(), describe_size(len(images), len(data)))


def describe_size(images: int, size: int) -> str:
    """Return images, bytes and bits per image of a file as text."""
    return f"{images:,} image{'s' * (images > 1)}, {size:,} bytes, {8 * size / images:.2f} bits per image"


def read_images(source: Path, array: str | None, form: ImageFormat) -> Tensor:
    """Return the images (N, C, S, S) uint8 of an image file, a NumPy file or a folder, resized and cropped."""
    if source.suffix in (".npy", ".npz"):
        return _read_arrays(source, array, form)
    if array:
        raise UserError(f"array is for npz files, got {source}: leave --array out")
    files = list_files(source, EXTENSIONS, "images") if source.is_dir() else [source]
    images, resized = [], 0
    for file in files:
        with reading(file, "cannot be read ({reason}): give an image, an npz or npy file, or a folder of images"):
            resized += Image.open(file).size != (form.size, form.size)
            images.append(decode_square(file, form.size, form.channels))
    _report_resized(source, resized, form)
    return torch.stack(images)


def _read_arrays(source: Path, array: str | None, form: ImageFormat) -> Tensor:
    """Return the images of ``array``, or of the only array of images, in a NumPy file."""
    with reading(source, "cannot be read as NumPy arrays ({reason}): use another file"):
        loaded = np.load(source, allow_pickle=False)
        arrays = {"x": loaded} if isinstance(loaded, np.ndarray) else loaded
        found = [array] if array else [*by_split(arrays, IMAGE_NAMES).values()]
        if len(found) != 1 or found[0] not in arrays:
            problem = f"no array {array}" if array else f"{len(found) or 'no'} arrays of images"
            raise UserError(f"{source} has {problem}, but {', '.join(arrays)}: choose one with --array")
        images = as_tensors(str(source), arrays, found[0], None, form.size).images
        height, width = arrays[found[0]].shape[1:3]
    if images.shape[1] != form.channels:
        raise UserError(f"{source} must have {form.channels} channels, as the checkpoint, got {images.shape[1]}")
    _report_resized(source, len(images) * ((height, width) != (form.size, form.size)), form)
    return images


def _report_resized(source: Path, count: int, form: ImageFormat) -> None:
    """Print how many images had another size."""
    if count:
        print(f"{source}: resized and cropped {count:,} image{'s' * (count > 1)} to {form.size} x {form.size}")
