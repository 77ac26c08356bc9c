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
COLLECTION = b"ttcf"


@dataclass(frozen=True)
class Outline:
    """Closed contours in em units, y up; what they wind around, in any direction, is ink.

    Args:
        points: (P, 2) float64.
        codes: (P,) uint8: what each point is in a ``matplotlib.path.Path``.
    """

    points: np.ndarray
    codes: np.ndarray

    @property
    def key(self) -> int:
        """A number of 64 bits that tells this shape, wherever it lies, from others; 0 where there is none.

        It is made of the points in their order in the plane: the same shape may be composed in another order.
        """
        if not len(self.codes):
            return 0
        kept = self.points[self.codes != CLOSE]
        shape = np.round((kept - kept.min(0)) * 1e6).astype("<i8")  # what is moved may differ in the last bits
        shape = shape[np.lexsort(shape.T)]
        return int.from_bytes(hashlib.sha256(shape.tobytes()).digest()[:8], "little")

    def draw(self, pen: Any, units_per_em: int) -> None:
        """Draw on a pen of fontTools, at whole units."""
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
            elif code == CUBIC:
                pen.curveTo(*points[at : at + 3])
            else:
                pen.closePath()
            at += {QUADRATIC: 2, CUBIC: 3}.get(int(code), 1)


class Font:
    """Outlines of a font's characters, as designed: no hints.

    Args:
        path: A TTF, OTF, WOFF or WOFF2 file.
        weight: Place on a variable font's axis of weight; null is its default. A static font has one weight.
        setting: The option that chose the file, for messages.

    Attributes:
        name: Full name of the font.
        characters: Code point -> name of the glyph, in the order of code points.
        units_per_em: Units in which the file's numbers are.
        weights: Least, default and largest weight of a variable font, or None.
        digest: SHA-256 of the file and the weight.

    Raises:
        UserError: If there is no such file, it is no font with outlines, or the weight is not on its axis.

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
        self._data = data = read(self.path, setting)
        self.file = parse(data, self.path, setting)
        self.name = self.file["name"].getDebugName(4) or self.path.stem
        self.units_per_em: int = self.file["head"].unitsPerEm
        self.characters: dict[int, str] = dict(sorted((self.file.getBestCmap() or {}).items()))
        axes = {axis.axisTag: axis for axis in self.file["fvar"].axes} if "fvar" in self.file else {}
        axis = axes.get("wght")
        self.weights = (axis.minValue, axis.defaultValue, axis.maxValue) if axis else None
        self.weight = weight if self.weights else None
        if self.weights and weight is not None and not self.weights[0] <= weight <= self.weights[2]:
            least, _, most = self.weights
            nearest = min(max(weight, least), most)
            raise UserError(
                f"{self.path} has weights from {least:g} to {most:g}, not {weight:g}: set --data.weight={nearest:g}"
            )
        self.digest = hashlib.sha256(data + f"{self.weight}".encode()).hexdigest()

    def copy(self) -> TTFont:
        """Return the font's file anew, with all tables read: what is lazy cannot be copied, nor changed safely."""
        return TTFont(io.BytesIO(self._data), lazy=False)

    def outline(self, character: int) -> Outline:
        """Return the outline of a code point.

        Raises:
            UserError: If the font lacks it, or its outline is damaged.
        """
        if character not in self.characters:
            raise UserError(
                f"{self.path} has no U+{character:04X}: set another --data.{self.setting} or --data.charset"
            )
        return self.glyph(self.characters[character])

    def glyph(self, name: str) -> Outline:
        """Return the outline of a glyph by its name."""
        pen = OutlinePen(self._glyphs)
        try:
            self._glyphs[name].draw(pen)
        except Exception as error:  # damaged tables make fontTools raise many things
            raise read_error(
                self.path, error, f"{self.path} is damaged at glyph {name!r}: set --data.{self.setting} to a sound copy"
            ) from error
        return pen.outline(self.units_per_em)

    @cached_property
    def notdef(self) -> Outline:
        """What the font shows for characters that it lacks: its first glyph."""
        return self.glyph(self.file.getGlyphOrder()[0])

    def advance(self, character: int) -> float:
        """Return how far the pen goes on after a code point, in em."""
        return self._glyphs[self.characters[character]].width / self.units_per_em

    @cached_property
    def _glyphs(self) -> Any:
        # At a place on the axes, outlines and widths are those of the instance.
        return self.file.getGlyphSet(location=None if self.weight is None else {"wght": self.weight})


class OutlinePen(BasePen):
    """Takes an outline in: composites in parts, curves of many points in single ones."""

    def __init__(self, glyphs: Any) -> None:
        super().__init__(glyphs)
        self.points: list[tuple[float, float]] = []
        self.codes: list[int] = []

    def outline(self, units_per_em: int) -> Outline:
        """Return what was drawn, in em."""
        points = np.array(self.points, dtype=np.float64).reshape(-1, 2) / units_per_em
        return Outline(points, np.array(self.codes, dtype=np.uint8))

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


def read(path: Path, setting: str) -> bytes:
    """Return a file's bytes.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): set --data.{setting} to a TTF, OTF or WOFF2 file"
        ) from error


def parse(data: bytes, path: Path, setting: str) -> TTFont:
    """Return the font that bytes hold, its tables not yet read.

    Raises:
        UserError: If it is none, or has no outlines.
    """
    if data[:4] == COLLECTION:
        raise UserError(
            f"{path} is a collection of {int.from_bytes(data[8:12], 'big')} fonts: take one out of it "
            f"(python -m fontTools.ttLib -y 0 -o one.ttf {path.name}), and set --data.{setting} to that"
        )
    try:
        font = TTFont(io.BytesIO(data), lazy=True)
        missing = {"cmap", "head", "hhea", "hmtx", "maxp", "name"} - set(font.keys())
        has_outlines = any(table in font for table in ("glyf", "CFF ", "CFF2"))
        if not missing:
            _ = font["head"], font["name"], font.getBestCmap()  # reads them
    except ImportError as error:
        raise UserError(
            f"{path} is a WOFF2 file, which needs the package brotli: pip install 'vqlab[woff2]'"
        ) from error
    except Exception as error:  # damaged files make fontTools raise many things
        raise read_error(
            path,
            error,
            f"{path} is not a font (it starts with {data[:8]!r}): set --data.{setting} to a TTF, OTF or WOFF2 file",
        ) from error
    if missing or not has_outlines:
        lacks = ", ".join(sorted(missing)) or "outlines (glyf, CFF)"
        raise UserError(f"{path} lacks {lacks}: set --data.{setting} to a font with outlines")
    return font
