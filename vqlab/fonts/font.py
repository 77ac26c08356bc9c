"""Outlines of font files."""

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property, partialmethod
from pathlib import Path
from typing import Any

import numpy as np
from fontTools.pens.basePen import BasePen
from fontTools.ttLib import TTFont

from vqlab.errors import UserError, read_error

MOVE, LINE, QUADRATIC, CUBIC, CLOSE = 1, 2, 3, 4, 79  # as in matplotlib.path.Path


@dataclass(frozen=True)
class Outline:
    """Closed contours in em with y upwards; ink is where the winding number is not 0."""

    points: np.ndarray  # (P, 2) float64
    codes: np.ndarray  # (P,) uint8, as in matplotlib.path.Path

    @property
    def key(self) -> int:
        """A 64-bit hash, equal for equal shapes at any position and order of contours; 0 for an empty outline."""
        if not len(self.codes):
            return 0
        kept = self.points[self.codes != CLOSE]
        shape = np.round((kept - kept.min(0)) * 1e6).astype("<i8")  # shifted shapes differ in the last bits
        shape = shape[np.lexsort(shape.T)]
        return int.from_bytes(hashlib.sha256(shape.tobytes()).digest()[:8], "little")

    def draw(self, pen: Any, units_per_em: int) -> None:
        """Draw lines and quadratic curves with a fontTools pen, rounded to integer units."""
        points = iter(map(tuple, np.round(self.points * units_per_em).astype(int).tolist()))
        codes = iter(self.codes.tolist())
        for code, point in zip(codes, points, strict=False):
            if code == QUADRATIC:  # a control point and an end point
                pen.qCurveTo(point, next(points))
                next(codes)
            elif code == CLOSE:
                pen.closePath()
            else:
                (pen.moveTo if code == MOVE else pen.lineTo)(point)


class Font:
    """Unhinted outlines of a font's characters.

    Args:
        path: A TTF, OTF, WOFF or WOFF2 file.
        weight: Position on the weight axis of a variable font. Default: that of the font. Static fonts ignore it.
        setting: Name of the argument with the file, for messages.

    Raises:
        UserError: If the file is missing or not a font with outlines, or the weight is not on its axis.

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
            self.data = self.path.read_bytes()
            self.file = TTFont(io.BytesIO(self.data), lazy=True)
            # Lazy tables raise errors here if they are damaged.
            _ = self.file["head"], self.file["name"], self.file["hmtx"], self.file.getBestCmap()
        except OSError as error:
            raise UserError(f"{setting} must be a font file, {path} cannot be read ({error.strerror})") from error
        except ImportError as error:
            raise UserError(f"{path} is a WOFF2 file and needs brotli: pip install 'vqlab[woff2]'") from error
        except Exception as error:  # fontTools raises many kinds of errors for damaged files
            reason = " ".join(str(error).split())[:100]
            message = f"{setting} must be a single TTF, OTF or WOFF2 file, {path} is not ({reason})"
            raise read_error(path, error, message) from error
        if not {"glyf", "CFF ", "CFF2"} & set(self.file.keys()):
            raise UserError(f"{setting} must be a font with outlines, {path} lacks outlines (glyf, CFF)")
        self.name = self.file["name"].getDebugName(4) or self.path.stem
        self.units_per_em: int = self.file["head"].unitsPerEm
        self.characters: dict[int, str] = dict(sorted((self.file.getBestCmap() or {}).items()))  # -> name of the glyph
        axes = self.file["fvar"].axes if "fvar" in self.file else []
        # Minimum and maximum of the weight axis of a variable font.
        self.weights = next(((axis.minValue, axis.maxValue) for axis in axes if axis.axisTag == "wght"), None)
        self.weight = weight if self.weights else None
        if self.weights and weight is not None and not self.weights[0] <= weight <= self.weights[1]:
            low, high = self.weights
            raise UserError(f"weight must be from {low:g} to {high:g} for {self.path}, got {weight:g}")
        self.digest = hashlib.sha256(self.data + f"{self.weight}".encode()).hexdigest()

    def outline(self, character: int) -> Outline:
        """Return the outline of a code point; raise UserError if the font lacks it or the outline is damaged."""
        if character not in self.characters:
            raise UserError(f"{self.setting} must have U+{character:04X}, {self.path} lacks it")
        return self.glyph(self.characters[character])

    def glyph(self, name: str) -> Outline:
        """Return the outline of a glyph by its name."""
        pen = OutlinePen(self._glyphs)
        try:
            self._glyphs[name].draw(pen)
        except Exception as error:  # fontTools raises many kinds of errors for damaged tables
            message = f"{self.setting} {self.path} is damaged at glyph {name!r}: set another font file"
            raise read_error(self.path, error, message) from error
        points = np.array(pen.points, dtype=np.float64).reshape(-1, 2) / self.units_per_em
        return Outline(points, np.array(pen.codes, dtype=np.uint8))

    @cached_property
    def notdef(self) -> Outline:
        """The glyph for characters that the font lacks, which is its first."""
        return self.glyph(self.file.getGlyphOrder()[0])

    def advance(self, character: int) -> float:
        """Return the advance width of a code point in em."""
        return self._glyphs[self.characters[character]].width / self.units_per_em

    @cached_property
    def _glyphs(self) -> Any:
        return self.file.getGlyphSet(location=None if self.weight is None else {"wght": self.weight})


class OutlinePen(BasePen):
    """Collects points and codes of an outline in font units; BasePen resolves composites and splits curves."""

    def __init__(self, glyphs: Any) -> None:
        super().__init__(glyphs)
        self.points: list[tuple[float, float]] = []
        self.codes: list[int] = []

    def _add(self, code: int, *points: tuple[float, float]) -> None:
        self.points += points
        self.codes += [code] * len(points)

    _moveTo = partialmethod(_add, MOVE)
    _lineTo = partialmethod(_add, LINE)
    _qCurveToOne = partialmethod(_add, QUADRATIC)
    _curveToOne = partialmethod(_add, CUBIC)
    _closePath = partialmethod(_add, CLOSE, (0.0, 0.0))
    _endPath = _closePath
