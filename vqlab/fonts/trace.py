"""Outlines of the ink in grey images."""

import warnings
from itertools import chain, pairwise

import numpy as np
from scipy.interpolate import splev, splprep
from scipy.ndimage import zoom
from skimage.measure import find_contours

from vqlab.fonts.draw import image_corners
from vqlab.fonts.font import CLOSE, LINE, MOVE, QUADRATIC, Outline

MARGIN = 2  # pixels of paper around the image, so that contours are closed
ZOOM = 2  # contours of a cubic interpolation are smoother than those of a linear one
MIN_AREA = 0.5  # pixels; smaller contours are left out
TOLERANCE = 0.05  # root mean square distance of the curves from the contour, in pixels
CORNER, REACH = 45.0, 1.5  # smallest angle in degrees of a corner, and distance in pixels on both sides to measure it


def trace(image: np.ndarray, em_scale: float) -> Outline:
    """Return the outline of the ink in an image (S, S) uint8 as straight lines and quadratic curves.

    The contour at the grey value 127.5 is found with subpixel precision and cut at its corners. A smoothing spline of
    degree 2 (FITPACK) is fitted to each piece; its segments are TrueType curves. Ink is to the right of contours.
    """
    ink = zoom(np.pad(255.0 - image, MARGIN), ZOOM, order=3, mode="grid-constant", grid_mode=True)
    points, codes = [np.empty((0, 2))], []
    for rows in find_contours(ink, 127.5):
        contour = (rows[:, ::-1] + 0.5) / ZOOM - MARGIN  # from the image's upper left corner
        contour = contour[np.append(True, np.hypot(*np.diff(contour, axis=0).T) > 1e-6)]  # distinct points
        x, y = contour.T
        area = (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2
        if len(contour) < 4 or abs(area) < MIN_AREA:
            continue
        ring = contour[:-1]
        corners = find_corners(ring)
        ends = pairwise([*corners, *(start + len(ring) for start in corners[:1])])
        pieces = [ring.take(range(start, end + 1), axis=0, mode="wrap") for start, end in ends] or [contour]
        curves, kinds = zip(*(fit_piece(piece, closed=not corners) for piece in pieces), strict=True)
        points += [curves[-1][-1:], *curves, np.zeros((1, 2))]
        codes += [MOVE, *chain(*kinds), CLOSE]
    (left, _), (_, top) = image_corners(em_scale)
    pixel = 1 / em_scale / len(image)
    placed = np.concatenate(points) * [pixel, -pixel] + [left, top]
    return Outline(placed, np.array(codes, np.uint8))


def fit_piece(piece: np.ndarray, closed: bool) -> tuple[np.ndarray, list[int]]:
    """Return points and codes of curves along a piece (P, 2) of a contour, without the first point."""
    if len(piece) < 4:
        return piece[1:], [LINE] * (len(piece) - 1)
    weights = np.ones(len(piece))
    weights[[0, -1]] = 50.0  # keeps the ends in place
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the number of knots is limited
        spline, _ = splprep(piece.T, w=weights, k=2, s=len(piece) * TOLERANCE**2, per=closed)
    knots = np.unique(spline[0][2:-2])
    on = np.stack(splev(knots, spline), 1)
    if not closed:
        on[0], on[-1] = piece[0], piece[-1]
    slope = np.stack(splev(knots[:-1], spline, der=1), 1)
    off = on[:-1] + slope * np.diff(knots)[:, None] / 2
    curves = np.stack([off, on[1:]], 1).reshape(-1, 2)
    return curves, [QUADRATIC] * len(curves)


def find_corners(ring: np.ndarray) -> list[int]:
    """Return the positions of the corners in a ring of points (P, 2), at least REACH apart."""
    closed = np.concatenate([ring, ring[:1]])
    way = np.append(0.0, np.cumsum(np.hypot(*np.diff(closed, axis=0).T)))  # length along the ring to each point
    total = way[-1]

    def at(place: np.ndarray) -> np.ndarray:
        return np.stack([np.interp(place % total, way, axis) for axis in closed.T], 1)

    before, after = ring - at(way[:-1] - REACH), at(way[:-1] + REACH) - ring
    cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    turn = np.abs(np.arctan2(cross, (before * after).sum(1)))
    corners: list[int] = []
    for candidate in np.argsort(-turn, kind="stable"):
        if turn[candidate] < np.radians(CORNER):
            break
        apart = np.abs(way[candidate] - way[corners])
        if (np.minimum(apart, total - apart) > REACH).all():
            corners.append(int(candidate))
    return sorted(corners)
