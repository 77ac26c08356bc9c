"""Outlines as grey images, without hinting.

Hinting moves outlines to the pixels' grid, and at 64 pixels that is as much as a third of the distance between two
fonts. So outlines are drawn unhinted by Agg, the rasteriser in matplotlib, which fills what contours wind around where
they overlap, too (nonzero rule), at several times the size, and the pixels are averages of squares of that.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.path import Path as AggPath
from matplotlib.transforms import Affine2D
from PIL import Image

from vqlab.errors import UserError
from vqlab.fonts.font import CLOSE, Font, Outline

ASCENT = 0.88  # of the em lies above the baseline: how ideographs are laid out
LEAST_SIDE, LEAST_FACTOR = 512, 4  # pixels drawn, and pixels drawn for one of the image
SIZES = (16, 1024)


@dataclass(frozen=True)
class EmBox:
    """The square that an image shows: the em in its middle, the same for all fonts and characters.

    The pen starts at the em's left side, on a baseline that lies 0.88 em below its top.

    Args:
        em_scale: Share of the image's side that an em takes.

    Example:
        >>> box = EmBox(0.8)
        >>> [round(x, 3) for x in (box.side, box.left, box.right, box.bottom, box.top)]
        [1.25, -0.125, 1.125, -0.245, 1.005]
    """

    em_scale: float = 0.875

    def __post_init__(self) -> None:
        if not 0 < self.em_scale <= 1:
            raise UserError(f"em_scale must be above 0 and at most 1, got {self.em_scale}: set --data.em_scale=0.875")

    @property
    def side(self) -> float:
        """Length of a side in em."""
        return 1 / self.em_scale

    @property
    def left(self) -> float:
        """Position of the left side in em; the pen is at 0."""
        return (1 - self.side) / 2

    @property
    def right(self) -> float:
        """Position of the right side in em."""
        return self.left + self.side

    @property
    def top(self) -> float:
        """Height of the upper side above the baseline in em."""
        return ASCENT - self.left

    @property
    def bottom(self) -> float:
        """Height of the lower side above the baseline in em, which is below 0."""
        return self.top - self.side

    def holds(self, outline: Outline) -> bool:
        """Whether all ink lies inside."""
        points = outline.points[outline.codes != CLOSE]
        if not len(points) or self._holds(points):
            return True
        # Control points of curves may lie outside of the ink.
        return self._holds(AggPath(outline.points, outline.codes).get_extents().get_points())

    def _holds(self, points: np.ndarray) -> bool:
        low, high = points.min(0), points.max(0)
        return bool((low >= (self.left, self.bottom)).all() and (high <= (self.right, self.top)).all())


class Canvas:
    """Draws outlines in black on white.

    Args:
        image_size: Height and width of the images in pixels, a power of two.
        box: What the images show.

    Raises:
        UserError: If ``image_size`` is not a power of two from 16 to 1024.
    """

    def __init__(self, image_size: int, box: EmBox) -> None:
        check_image_size(image_size)
        side = max(LEAST_SIDE, LEAST_FACTOR * image_size)
        scale = side / box.side
        self._factor = side // image_size
        self._agg = RendererAgg(side, side, 72)
        self._place = Affine2D.from_values(scale, 0, 0, scale, -box.left * scale, -box.bottom * scale)
        self._pen = self._agg.new_gc()
        self._pen.set_linewidth(0)
        self._pen.set_snap(False)

    def draw(self, outline: Outline) -> np.ndarray:
        """Return the image of an outline, (S, S) uint8: 0 is ink, 255 paper; what lies outside of the box is cut."""
        self._agg.clear()
        if len(outline.codes):
            path = AggPath(outline.points, outline.codes)
            self._agg.draw_path(self._pen, path, self._place, (0.0, 0.0, 0.0, 1.0))
        ink = np.asarray(self._agg.buffer_rgba())[..., 3]
        return np.asarray(Image.fromarray(255 - ink).reduce(self._factor))


def render(
    font: Font | str | Path, characters: Iterable[int | str], image_size: int, em_scale: float = 0.875
) -> np.ndarray:
    """Draw characters of a font, black on white, all in one em box on one baseline.

    Args:
        font: A font or its file.
        characters: Code points or letters.
        image_size: Height and width S in pixels, a power of two.
        em_scale: Share of the image's side that an em takes.

    Shape:
        -> (N, S, S) uint8: 0 is ink, 255 paper.

    Raises:
        UserError: If the file is no font, the font lacks a character, or a number is out of range.

    Example:
        >>> from matplotlib import get_data_path
        >>> images = render(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", "I-", image_size=64)
        >>> images.shape, images.dtype, images.min(), images.max()
        ((2, 64, 64), dtype('uint8'), np.uint8(0), np.uint8(255))
        >>> [(image < 128).any(1).sum().item() for image in images]  # heights: capitals are 0.73 em, 56 pixels to an em
        [41, 4]
    """
    canvas = Canvas(image_size, EmBox(em_scale))
    source = font if isinstance(font, Font) else Font(font)
    codes = [ord(c) if isinstance(c, str) else c for c in characters]
    return np.array([canvas.draw(source.outline(c)) for c in codes], np.uint8).reshape(-1, image_size, image_size)


def check_image_size(size: int) -> None:
    """Raise UserError unless ``size`` is a power of two that glyphs can be drawn at."""
    least, most = SIZES
    if not least <= size <= most or size & (size - 1):
        near = min((2**n for n in range(4, 11)), key=lambda power: abs(power - size))
        raise UserError(
            f"image_size must be a power of two from {least} to {most}, got {size}: set --data.image_size={near}"
        )
