"""Images of the characters of a font, cached on disk."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from vqlab.atomic_io import disk_errors, write_atomic
from vqlab.data.files import counted
from vqlab.fonts.draw import Canvas, ImageSize
from vqlab.fonts.font import Font

VERSION = f"1 {matplotlib.__version__}"  # increase the number when the same settings give other images
FLAWS = ("usable", "blank", "like .notdef", "partly outside of the image")
FIELDS = {"character": "<u4", "outline": "<u8", "flaw": "u1", "density": "<f4"}  # of the cache, before the images
USABLE, BLANK, LIKE_NOTDEF, OUTSIDE = range(len(FLAWS))


@dataclass(frozen=True)
class Glyphs:
    """Images of N characters of a font, sorted by code point."""

    characters: np.ndarray  # (N,) uint32 code points
    outlines: np.ndarray  # (N,) uint64: Outline.key
    flaws: np.ndarray  # (N,) uint8: positions in FLAWS
    densities: np.ndarray  # (N,) float32: mean number of ink edges on a row or column of the image
    images: np.ndarray  # (N, S, S) uint8: 0 is ink, 255 is paper; a memory map of the cache if there is one

    def rows(self, characters: int | Sequence[int] | np.ndarray) -> Any:
        """Return the positions of characters, which must all be present."""
        return np.searchsorted(self.characters, np.asarray(characters, np.uint32))

    def having(self, *flaws: int) -> set[int]:
        """Return the characters with one of ``flaws``."""
        return set(self.characters[np.isin(self.flaws, flaws)].tolist())


def draw_glyphs(
    font: Font, characters: Sequence[int], image_size: ImageSize, em_scale: float, cache: str | None
) -> Glyphs:
    """Return the images of characters, from the folder ``cache`` if they were drawn before."""
    if cache is None:
        records = draw(font, characters, image_size, em_scale)
    else:
        codes = np.asarray(characters, np.uint32).tobytes()
        settings = f"{VERSION} {font.digest} {image_size} {em_scale} {hashlib.sha256(codes).hexdigest()}"
        path = Path(cache) / f"{font.path.stem}-{image_size}-{hashlib.sha256(settings.encode()).hexdigest()[:16]}.npy"
        if not path.is_file():
            partial = path.with_suffix(f".{os.getpid()}.npy")  # other processes may draw the same characters
            with write_atomic(partial, "--data.cache") as file:
                np.save(file, draw(font, characters, image_size, em_scale))
            with disk_errors(path, "--data.cache"):
                os.replace(partial, path)
        records = np.load(path, mmap_mode="r")
    code, outline, flaw, density = (np.array(records[name]) for name in FIELDS)
    return Glyphs(code, outline, flaw, density, records["image"])


def draw(font: Font, characters: Sequence[int], image_size: ImageSize, em_scale: float) -> np.ndarray:
    """Draw characters as an array of records with one field per attribute of :class:`Glyphs`."""
    records = np.empty(len(characters), np.dtype([*FIELDS.items(), ("image", "u1", (image_size, image_size))]))
    canvas, notdef = Canvas(image_size, em_scale), font.notdef.key
    for number, code in enumerate(counted(characters, len(characters), "drew", f"characters of {font.name}")):
        outline = font.outline(code)
        image, key = canvas.draw(outline), outline.key
        flaw = USABLE if canvas.holds(outline) else OUTSIDE
        flaw = BLANK if image.min() == 255 else LIKE_NOTDEF if key == notdef else flaw
        edges = sum(np.abs(np.diff(image.astype(np.int16), axis=axis)).sum() for axis in (0, 1)) / 255
        records[number] = (code, key, flaw, edges / (2 * image_size), image)
    return records
