"""Images of a font's characters, drawn once and kept on disk."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

from vqlab.atomic_io import disk_errors, write_atomic
from vqlab.data.files import counted
from vqlab.fonts.draw import Canvas, EmBox, ImageSize
from vqlab.fonts.font import Font

VERSION = f"1 {matplotlib.__version__}"  # raise the number when the same settings give other images
FLAWS = ("sound", "blank", "like .notdef", "that leave the image")
FIELDS = {"character": "<u4", "outline": "<u8", "flaw": "u1", "density": "<f4"}  # of the cache, before the images
SOUND, BLANK, LIKE_NOTDEF, OUTSIDE = range(len(FLAWS))


@dataclass(frozen=True)
class Glyphs:
    """Images of N characters of one font, in the order of their code points."""

    characters: np.ndarray  # (N,) uint32 code points
    outlines: np.ndarray  # (N,) uint64: Outline.key
    flaws: np.ndarray  # (N,) uint8: positions in FLAWS
    densities: np.ndarray  # (N,) float32: mean number of ink edges on a line across the image, over rows and columns
    images: np.ndarray  # (N, S, S) uint8: 0 is ink, 255 paper; a memory map of the cache where there is one

    def rows(self, characters: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the positions of characters, all of which must be present."""
        return np.searchsorted(self.characters, np.asarray(characters, np.uint32))

    def having(self, *flaws: int) -> set[int]:
        """Return the characters with one of ``flaws``."""
        return set(self.characters[np.isin(self.flaws, flaws)].tolist())


def draw_glyphs(font: Font, characters: Sequence[int], image_size: ImageSize, box: EmBox, cache: str | None) -> Glyphs:
    """Return the images of a font's characters, read from the folder ``cache`` if they were drawn before."""
    if cache is None:
        return _as_glyphs(draw(font, characters, image_size, box))
    codes = np.asarray(characters, np.uint32).tobytes()
    settings = f"{VERSION} {font.digest} {image_size} {box.em_scale} {hashlib.sha256(codes).hexdigest()}"
    path = Path(cache) / f"{font.path.stem}-{image_size}-{hashlib.sha256(settings.encode()).hexdigest()[:16]}.npy"
    if not path.is_file():
        # Other processes may draw the same: each writes a file of its own, and the last one stays.
        partial = path.with_suffix(f".{os.getpid()}.npy")
        with write_atomic(partial, "--data.cache") as file:
            np.save(file, draw(font, characters, image_size, box))
        with disk_errors(path, "--data.cache"):
            os.replace(partial, path)
    return _as_glyphs(np.load(path, mmap_mode="r"))


def draw(font: Font, characters: Sequence[int], image_size: ImageSize, box: EmBox) -> np.ndarray:
    """Draw characters as records of what ``Glyphs`` holds."""
    fields = [*FIELDS.items(), ("image", "u1", (image_size, image_size))]
    records = np.empty(len(characters), np.dtype(fields))
    canvas, notdef = Canvas(image_size, box), font.notdef.key
    for number, code in enumerate(counted(characters, len(characters), "drew", f"characters of {font.name}")):
        outline = font.outline(code)
        image, key = canvas.draw(outline), outline.key
        flaw = SOUND
        if image.min() == 255:
            flaw = BLANK
        elif key == notdef:
            flaw = LIKE_NOTDEF
        elif not box.holds(outline):
            flaw = OUTSIDE
        records[number] = (code, key, flaw, density(image), image)
    return records


def _as_glyphs(records: np.ndarray) -> Glyphs:
    character, outline, flaw, density = (np.array(records[name]) for name in FIELDS)
    return Glyphs(character, outline, flaw, density, records["image"])


def density(image: np.ndarray) -> float:
    """Return the mean number of ink edges on a line across an image (S, S) uint8, over rows and columns."""
    edges = sum(np.abs(np.diff(image.astype(np.int16), axis=axis)).sum() for axis in (0, 1))
    return float(edges) / 255 / (2 * len(image))
