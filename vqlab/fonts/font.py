"""Font files as outlines."""

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from fontTools.pens.basePen import BasePen
from fontTools.ttLib import TTFont

from vqlab.errors import UserError, read_error

MOVE, LINE, QUADRATIC, CUBIC, CLOSE = 1, 2, 3, 4, 79  # as in matplotlib.path.Path


@dataclass(frozen=True)
class Outline:
    """Closed contours in em, y up; what they wind around, in either direction, is ink."""

    points: np.ndarray  # (P, 2) float64
    codes: np.ndarray  # (P,) uint8: what each point is in a matplotlib.path.Path

    @property
    def key(self) -> int:
        """A hash of 64 bits, equal for equal shapes at any position and in any order; 0 for an empty outline."""
        if not len(self.codes):
            return 0
        kept = self.points[self.codes != CLOSE]
        shape = np.round((kept - kept.min(0)) * 1e6).astype("<i8")  # moved shapes differ in the last bits
        shape = shape[np.lexsort(shape.T)]
        return int.from_bytes(hashlib.sha256(shape.tobytes()).digest()[:8], "little")

    def draw(self, pen: Any, units_per_em: int) -> None:
        """Draw straight lines and quadratic curves on a pen of fontTools, rounded to whole units."""
        points = [tuple(point) for point in np.round(self.points * units_per_em).astype(int).tolist()]
        at = 0
        while at < len(points):
            code = self.codes[at]
            if code == MOVE:
                pen.moveTo(points[at])
            elif code == LINE:
                pen.lineTo(points[at])
            elif code == QUADRATIC:
                pen.qCurveTo(*points[at : at + 2])
            else:
                pen.closePath()
            at += 2 if code == QUADRATIC else 1


class Font:
    """Unhinted outlines of a font's characters.

    Args:
        path: A TTF, OTF, WOFF or WOFF2 file.
        weight: Position on a variable font's weight axis; None is its default. Static fonts ignore it.
        setting: The argument that chose the file, for messages.

    Raises:
        UserError: If the file is missing, is not a font with outlines, or the weight is not on its axis.

    Example:
        >>> from matplotlib import get_data_path
        >>> font = Font(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf")
        >>> font.name, font.units_per_em, font.weights, font.advance(ord("i"))
        ('DejaVu Sans', 2048, None, 0.27783203125)
        >>> font.outline(ord("i")).points.max(0).tolist()  # in em
        [0.18408203125, 0.759765625]
    """

    def __init__(self, path: str | Path, weight: float | None = None, setting: str = "font") -> None:
        self.path, self.setting = Path(path), setting
        try:
            self._data = self.path.read_bytes()
        except OSError as error:
            raise UserError(f"{setting} must be a font file, {path} cannot be read ({error.strerror})") from error
        self.file = parse(self._data, self.path, setting)
        self.name = self.file["name"].getDebugName(4) or self.path.stem
        self.units_per_em: int = self.file["head"].unitsPerEm
        self.characters: dict[int, str] = dict(sorted((self.file.getBestCmap() or {}).items()))  # -> name of the glyph
        axes = self.file["fvar"].axes if "fvar" in self.file else []
        axis = next((axis for axis in axes if axis.axisTag == "wght"), None)
        # Least, default and largest weight of a variable font.
        self.weights = (axis.minValue, axis.defaultValue, axis.maxValue) if axis else None
        self.weight = weight if self.weights else None
        if self.weights and weight is not None and not self.weights[0] <= weight <= self.weights[2]:
            least, _, most = self.weights
            raise UserError(f"weight must be from {least:g} to {most:g} for {self.path}, got {weight:g}")
        self.digest = hashlib.sha256(self._data + f"{self.weight}".encode()).hexdigest()

    def copy(self) -> TTFont:
        """Return the font's file anew with all tables read: a lazy font can be neither copied nor changed safely."""
        return TTFont(io.BytesIO(self._data), lazy=False)

    def outline(self, character: int) -> Outline:
        """Return the outline of a code point; raise UserError if the font lacks it, or its outline is damaged."""
        if character not in self.characters:
            raise UserError(f"{self.setting} must have U+{character:04X}, {self.path} lacks it")
        return self.glyph(self.characters[character])

    def glyph(self, name: str) -> Outline:
        """Return the outline of a glyph by its name."""
        pen = OutlinePen(self._glyphs)
        try:
            self._glyphs[name].draw(pen)
        except Exception as error:  # damaged tables make fontTools raise many things
            message = f"{self.setting} must be an undamaged font, {self.path} is damaged at glyph {name!r}"
            raise read_error(self.path, error, message) from error
        points = np.array(pen.points, dtype=np.float64).reshape(-1, 2) / self.units_per_em
        return Outline(points, np.array(pen.codes, dtype=np.uint8))

    @cached_property
    def notdef(self) -> Outline:
        """What the font shows for characters that it lacks: its first glyph."""
        return self.glyph(self.file.getGlyphOrder()[0])

    def advance(self, character: int) -> float:
        """Return the advance width of a code point in em."""
        return self._glyphs[self.characters[character]].width / self.units_per_em

    @cached_property
    def _glyphs(self) -> Any:
        return self.file.getGlyphSet(location=None if self.weight is None else {"wght": self.weight})


class OutlinePen(BasePen):
    """Collects an outline in the font's units: composites resolved, curves of many points in single ones."""

    def __init__(self, glyphs: Any) -> None:
        super().__init__(glyphs)
        self.points: list[tuple[float, float]] = []
        self.codes: list[int] = []

    def _add(self, code: int, *points: tuple[float, float]) -> None:
        self.points += points
        self.codes += [code] * len(points)

    def _moveTo(self, point: Any) -> None:
        self._add(MOVE, point)

    def _lineTo(self, point: Any) -> None:
        self._add(LINE, point)

    def _qCurveToOne(self, *points: Any) -> None:
        self._add(QUADRATIC, *points)

    def _curveToOne(self, *points: Any) -> None:
        self._add(CUBIC, *points)

    def _closePath(self) -> None:
        self._add(CLOSE, (0.0, 0.0))

    _endPath = _closePath  # ink is what a contour winds around, so an open one is closed


def parse(data: bytes, path: Path, setting: str) -> TTFont:
    """Return the font in ``data``, its tables not yet read; raise UserError if it is not one with outlines."""
    try:
        font = TTFont(io.BytesIO(data), lazy=True)
        _ = font["head"], font["name"], font["hmtx"], font.getBestCmap()  # reads them
        has_outlines = any(table in font for table in ("glyf", "CFF ", "CFF2"))
    except ImportError as error:
        raise UserError(
            f"{path} is a WOFF2 file, which needs the package brotli: pip install 'vqlab[woff2]'"
        ) from error
    except Exception as error:  # damaged files make fontTools raise many things
        reason = " ".join(str(error).split())[:100]
        message = f"{setting} must be a single TTF, OTF or WOFF2 file, {path} is not ({reason})"
        raise read_error(path, error, message) from error
    if not has_outlines:
        raise UserError(f"{setting} must be a font with outlines, {path} lacks outlines (glyf, CFF)")
    return font
