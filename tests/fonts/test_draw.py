import numpy as np
import pytest

from tests.helpers.toy_fonts import box, build
from vqlab.fonts.draw import Canvas, image_corners, render
from vqlab.fonts.font import Outline


def polygons(*contours):
    """Return an outline of straight lines."""
    points = np.concatenate([part for contour in contours for part in (np.array(contour, float), np.zeros((1, 2)))])
    codes = [code for contour in contours for code in (1, *[2] * (len(contour) - 1), 79)]
    return Outline(points, np.array(codes, np.uint8))


def coverage(contours, em_scale, size, fine=32):
    """Return the fraction of ink in each pixel (nonzero winding), exact along ``fine`` lines per row of pixels."""
    edges = np.array([(a, b) for c in contours for a, b in zip(c, [*c[1:], c[0]], strict=True)])
    low, high = image_corners(em_scale)
    edges = (edges - low) / (high - low) * size
    ink = np.zeros((size, size))
    for line in range(size * fine):
        y = (line + 0.5) / fine
        crossed = edges[(edges[:, 0, 1] <= y) != (edges[:, 1, 1] <= y)]
        (x0, y0), (x1, y1) = crossed.transpose(1, 2, 0)
        x = x0 + (y - y0) / (y1 - y0) * (x1 - x0)
        order = np.argsort(x)
        winding = np.cumsum(np.where(y1 > y0, 1, -1)[order])
        for start, end, turns in zip(x[order], x[order][1:], winding, strict=False):
            if turns:
                left, right = (np.clip(x - np.arange(size), 0, 1) for x in (start, end))
                ink[size - 1 - line // fine] += right - left
    return ink / fine


@pytest.mark.parametrize("size", [16, 64])
def test_pixels_are_the_fraction_of_paper(size):
    rng = np.random.default_rng()
    for _ in range(3):
        # A star that intersects itself and a rectangle, in the same or in opposite directions.
        star = rng.uniform(-0.1, 0.9, (7, 2)).tolist()
        contours = [star, box(0.2, 0.1, 0.7, 0.6)[:: rng.choice([-1, 1])]]
        image = Canvas(size, 0.8).draw(polygons(*contours))
        error = np.abs(1 - image / 255 - coverage(contours, 0.8, size))
        assert error.mean() < 0.003
        assert error.max() < 0.08


def test_box_and_baseline_are_the_same_for_all_units(tmp_path):
    shapes = {65: [box(80, -100, 640, 700)]}
    one = render(build(tmp_path / "a.ttf", shapes, units=1000), "A", 64)
    half = {65: [[(x // 2, y // 2) for x, y in shapes[65][0]]]}
    np.testing.assert_array_equal(one, render(build(tmp_path / "b.ttf", half, units=500), "A", 64))
    rows, columns = (np.flatnonzero((one[0] < 128).any(axis)) for axis in (1, 0))
    pixel = 1 / 56  # an em has 56 of 64 pixels, 4 are left at each side
    found = np.array([columns[0], columns[-1] + 1, rows[0], rows[-1] + 1])
    np.testing.assert_allclose(found, 4 + np.array([0.08, 0.64, 0.88 - 0.7, 0.88 + 0.1]) / pixel, atol=0.5)


def test_canvas_holds_an_outline_if_all_ink_is_inside():
    canvas = Canvas(64, 0.8)  # x from -0.125 to 1.125, y from -0.245 to 1.005
    assert canvas.holds(polygons(box(-0.12, -0.24, 1.12, 1.0)))
    for sides in ((-0.13, 0, 1, 1), (0, -0.25, 1, 1), (0, 0, 1.13, 1), (0, 0, 1, 1.01)):
        assert not canvas.holds(polygons(box(*sides)))
    curve = Outline(np.array([(0, 0), (0.5, 1.9), (1, 0), (0, 0)]), np.array([1, 3, 3, 79], np.uint8))
    assert canvas.holds(curve), "the control point is outside, the curve is not"
    assert canvas.holds(Outline(np.empty((0, 2)), np.empty(0, np.uint8)))
