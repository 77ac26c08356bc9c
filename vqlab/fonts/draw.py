"""Grey images of outlines, without hinting.

Hinting moves outlines by up to a third of the distance between two fonts. Agg, the rasteriser of matplotlib (nonzero
winding rule), therefore draws them unhinted and enlarged, and the pixels are averaged.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.path import Path as AggPath
from matplotlib.transforms import Affine2D
from PIL import Image

from vqlab.fonts.font import CLOSE, Font, Outline
from vqlab.validation import Checked, Range

ASCENT = 0.88  # fraction of the em above the baseline, as usual for ideographs
MIN_SIDE, MIN_FACTOR = 512, 4  # smallest side that is drawn in pixels, and smallest reduction of it

ImageSize = Literal[16, 32, 64, 128, 256, 512, 1024]
EmScale = Annotated[float, Range(0, 1, open="low")]  # ratio of the em to the image's side


def image_corners(em_scale: float) -> np.ndarray:
    """Return [[left, bottom], [right, top]] of an image in em; the em is in its centre, with the baseline at y = 0."""
    margin = (1 / em_scale - 1) / 2
    return np.array([[-margin, ASCENT - 1 - margin], [1 + margin, ASCENT + margin]])


class Canvas(Checked):
    """Draws outlines in black on white as images with ``image_size`` pixels per side."""

    def __init__(self, image_size: ImageSize, em_scale: EmScale) -> None:
        side = max(MIN_SIDE, MIN_FACTOR * image_size)
        self._corners = image_corners(em_scale)
        (left, bottom), scale = self._corners[0], side * em_scale
        self._factor = side // image_size
        self._agg = RendererAgg(side, side, 72)
        self._place = Affine2D.from_values(scale, 0, 0, scale, -left * scale, -bottom * scale)
        self._pen = self._agg.new_gc()
        self._pen.set_linewidth(0)
        self._pen.set_snap(False)

    def holds(self, outline: Outline) -> bool:
        """Whether all ink of an outline is inside the image."""
        (low, high), points = self._corners, outline.points[outline.codes != CLOSE]
        if not ((points >= low) & (points <= high)).all():  # control points of curves may lie outside of the ink
            points = AggPath(outline.points, outline.codes).get_extents().get_points()
        return bool(((points >= low) & (points <= high)).all())

    def draw(self, outline: Outline) -> np.ndarray:
        """Return the image of an outline, (S, S) uint8: 0 is ink, 255 is paper; ink outside is cut off."""
        self._agg.clear()
        if len(outline.codes):
            path = AggPath(outline.points, outline.codes)
            self._agg.draw_path(self._pen, path, self._place, (0.0, 0.0, 0.0, 1.0))
        ink = np.asarray(self._agg.buffer_rgba())[..., 3]
        return np.asarray(Image.fromarray(255 - ink).reduce(self._factor))


def render(
    font: Font | str | Path, characters: Iterable[int | str], image_size: ImageSize, em_scale: float = 0.875
) -> np.ndarray:
    """Draw characters of a font (code points or letters) at the same scale: (N, S, S) uint8, 0 ink, 255 paper.

    Raises:
        UserError: If the file is not a font, the font lacks a character, or a number is out of range.

    Example:
        >>> from matplotlib import get_data_path
        >>> images = render(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", "I-", image_size=64)
        >>> images.shape, images.dtype, images.min(), images.max()
        ((2, 64, 64), dtype('uint8'), np.uint8(0), np.uint8(255))
    """
    canvas = Canvas(image_size, em_scale)
    source = font if isinstance(font, Font) else Font(font)
    codes = [ord(c) if isinstance(c, str) else c for c in characters]
    return np.array([canvas.draw(source.outline(c)) for c in codes], np.uint8).reshape(-1, image_size, image_size)
