"""Grey images back into outlines."""

import warnings

import numpy as np
from scipy.interpolate import splev, splprep
from scipy.ndimage import zoom
from skimage.measure import find_contours

from vqlab.fonts.draw import EmBox
from vqlab.fonts.font import CLOSE, LINE, MOVE, QUADRATIC, Outline

MARGIN = 2  # pixels of paper around the image, so that contours close
ZOOM = 2  # between pixels a contour on a cubic surface waves less than on a linear one
SPECK = 0.5  # contours around less than so many pixels are left out
TOLERANCE = 0.05  # root mean square distance of the curves from the contour, in pixels
CORNER, REACH = 45.0, 1.5  # a corner turns by so many degrees within so many pixels before and after it


def trace(image: np.ndarray, box: EmBox) -> Outline:
    """Return the outline of the ink in an image (S, S) uint8, as straight lines and quadratic curves.

    The contour at half grey, found between pixels, is cut at its corners, and each piece fitted by a smoothing
    spline of degree 2 (FITPACK), whose pieces are the curves of TrueType. Ink is to the right of the contours.
    """
    ink = zoom(np.pad(255.0 - image, MARGIN), ZOOM, order=3, mode="grid-constant", grid_mode=True)
    points, codes = [np.empty((0, 2))], []
    for rows in find_contours(ink, 127.5):
        contour = (rows[:, ::-1] + 0.5) / ZOOM - MARGIN  # from the image's upper left corner
        distinct = np.append(True, np.hypot(*np.diff(contour, axis=0).T) > 1e-6)
        contour = contour[distinct]
        x, y = contour.T
        area = (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2
        if len(contour) < 4 or abs(area) < SPECK:
            continue
        curves, kinds = fit(contour)
        points += [curves, np.zeros((1, 2))]
        codes += [*kinds, CLOSE]
    pixel = box.side / len(image)
    placed = np.concatenate(points) * [pixel, -pixel] + [box.left, box.top]
    return Outline(placed, np.array(codes, np.uint8))


def fit(contour: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Return points and codes of curves along a closed contour (P, 2), whose first point is its last, too."""
    ring = contour[:-1]
    corners = find_corners(ring)
    if not corners:
        return fit_piece(contour, closed=True)
    points, codes = [ring[corners[0]][None]], [MOVE]
    for start, end in zip(corners, [*corners[1:], corners[0] + len(ring)], strict=True):
        curves, kinds = fit_piece(np.take(ring, range(start, end + 1), axis=0, mode="wrap"), closed=False)
        points.append(curves[1:])
        codes += kinds[1:]
    return np.concatenate(points), codes


def fit_piece(piece: np.ndarray, closed: bool) -> tuple[np.ndarray, list[int]]:
    """Return points and codes of curves along a piece (P, 2) of a contour, from its first point to its last."""
    if len(piece) < 4:
        return piece, [MOVE] + [LINE] * (len(piece) - 1)
    weights = np.ones(len(piece))
    weights[[0, -1]] = 50.0  # the ends stay where they are
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that it needs more knots than it may take
        spline, _ = splprep(piece.T, w=weights, k=2, s=len(piece) * TOLERANCE**2, per=closed)
    knots = np.unique(spline[0][2:-2])
    on = np.stack(splev(knots, spline), 1)
    if not closed:
        on[0], on[-1] = piece[0], piece[-1]
    slope = np.stack(splev(knots[:-1], spline, der=1), 1)
    off = on[:-1] + slope * np.diff(knots)[:, None] / 2
    curves = np.stack([off, on[1:]], 1).reshape(-1, 2)
    return np.concatenate([on[:1], curves]), [MOVE] + [QUADRATIC] * len(curves)


def find_corners(ring: np.ndarray) -> list[int]:
    """Return the positions in a ring of points (P, 2) where it turns sharply, at least REACH apart."""
    steps = np.hypot(*(np.roll(ring, -1, 0) - ring).T)
    total = steps.sum()
    way = np.append(0.0, np.cumsum(steps))  # along the ring, and back to its start
    closed = np.concatenate([ring, ring[:1]])

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
