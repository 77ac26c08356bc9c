"""Images of a font's characters, drawn once and kept on disk."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

from vqlab.data.files import counted
from vqlab.fonts.draw import Canvas, EmBox
from vqlab.fonts.font import Font
from vqlab.training.checkpoint_io import disk_errors, write_atomic

VERSION = f"1 {matplotlib.__version__}"  # raise the number when the same settings give other images
FLAWS = ("sound", "blank", "like .notdef", "that leave the image")  # what a drawn character may be
SOUND, BLANK, LIKE_NOTDEF, OUTSIDE = range(len(FLAWS))


@dataclass(frozen=True)
class Glyphs:
    """Images of N characters of one font, in the order of their code points.

    Args:
        characters: (N,) uint32 code points.
        outlines: (N,) uint64: equal where the outlines are, wherever these lie; 0 where there is none.
        flaws: (N,) uint8: what is wrong with each, as numbers in ``FLAWS``.
        densities: (N,) float32: how many edges of ink a line across the image crosses on average, across and down.
        images: (N, S, S) uint8: 0 is ink, 255 paper; if there is a cache, read from it as they are asked for.
    """

    characters: np.ndarray
    outlines: np.ndarray
    flaws: np.ndarray
    densities: np.ndarray
    images: np.ndarray

    def rows(self, characters: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the positions of characters, each of which must be there."""
        return np.searchsorted(self.characters, np.asarray(characters, np.uint32))

    def having(self, *flaws: int) -> set[int]:
        """Return the characters with one of ``flaws``."""
        return set(self.characters[np.isin(self.flaws, flaws)].tolist())


def draw_glyphs(font: Font, characters: Sequence[int], image_size: int, box: EmBox, cache: str | None) -> Glyphs:
    """Return the images of a font's characters, out of ``cache`` if they were drawn before.

    Args:
        font: The font.
        characters: Code points that it has, in their order.
        image_size: Height and width in pixels.
        box: What the images show.
        cache: Folder of the drawn images; null keeps them in memory.

    Raises:
        UserError: If an outline is damaged, or the folder cannot be written.
    """
    if cache is None:
        return as_glyphs(draw(font, characters, image_size, box))
    codes = np.asarray(characters, np.uint32).tobytes()
    settings = f"{VERSION} {font.digest} {image_size} {box.em_scale} {hashlib.sha256(codes).hexdigest()}"
    path = Path(cache) / f"{font.path.stem}-{image_size}-{hashlib.sha256(settings.encode()).hexdigest()[:16]}.npy"
    if not path.is_file():
        # Other processes may draw the same: each writes a file of its own, and the last one is left.
        partial = path.with_suffix(f".{os.getpid()}.npy")
        with write_atomic(partial, "--data.cache") as file:
            np.save(file, draw(font, characters, image_size, box))
        with disk_errors(path, "--data.cache"):
            os.replace(partial, path)
    return as_glyphs(np.load(path, mmap_mode="r"))


def draw(font: Font, characters: Sequence[int], image_size: int, box: EmBox) -> np.ndarray:
    """Draw characters as records of what ``Glyphs`` holds."""
    fields = [("character", "<u4"), ("outline", "<u8"), ("flaw", "u1"), ("density", "<f4")]
    records = np.empty(len(characters), np.dtype([*fields, ("image", "u1", (image_size, image_size))]))
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


def as_glyphs(records: np.ndarray) -> Glyphs:
    """Return records as columns; those that are small are read now."""
    columns = (np.array(records[name]) for name in ("character", "outline", "flaw", "density"))
    characters, outlines, flaws, densities = columns
    return Glyphs(characters, outlines, flaws, densities, records["image"])


def density(image: np.ndarray) -> float:
    """Return how many edges of ink a line across an image (S, S) uint8 crosses on average, across and down.

    Example:
        >>> image = np.full((8, 8), 255, np.uint8)
        >>> image[:, 2:4] = 0  # two edges on each row, none on the columns
        >>> density(image)
        1.0
    """
    edges = sum(np.abs(np.diff(image.astype(np.int16), axis=axis)).sum() for axis in (0, 1))
    return float(edges) / 255 / (2 * len(image))
