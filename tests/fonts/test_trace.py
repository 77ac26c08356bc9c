import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tests.helpers.toy_fonts import iou
from vqlab.fonts.draw import Canvas
from vqlab.fonts.font import MOVE
from vqlab.fonts.trace import trace

PAPER = np.full((64, 64), 255, np.uint8)


def contours(outline):
    starts = np.flatnonzero(outline.codes == MOVE)
    return [part[:-1] for part in np.split(outline.points, starts[1:])] if len(starts) else []


def signed_area(points):
    x, y = points.T
    return (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2


@pytest.mark.parametrize("size", [64, 128])
def test_drawn_outlines_match_traced_images(size):
    rng, canvas = np.random.default_rng(), Canvas(size, 0.875)
    for _ in range(3):
        field = gaussian_filter(rng.normal(size=(size, size)), size / 24)
        image = np.uint8(np.clip(127.5 + 100 * field / field.std(), 0, 255))  # with holes and islands
        assert iou(canvas.draw(trace(image, 0.875)), image) > 0.97


def test_corners_stay_and_straight_sides_are_straight():
    image = PAPER.copy()
    image[16:48, 8:56] = 0
    image[16, 8:56] = 128  # half a pixel less at the top
    (square,) = contours(trace(image, 1.0))
    x, y = (square * 64).T
    sides = [8, 56, 64 * 0.88 - 48, 64 * 0.88 - 16.5]
    assert [x.min(), x.max(), y.min(), y.max()] == pytest.approx(sides, abs=0.2)
    away = np.minimum(np.minimum(x - x.min(), x.max() - x), np.minimum(y - y.min(), y.max() - y))
    assert away.max() < 0.75, "all points are on the sides, or less than a pixel inside at corners"


def test_ink_is_to_the_right_of_outer_contours_and_of_holes():
    image = PAPER.copy()
    image[8:56, 8:56] = 0
    image[20:44, 20:44] = 255
    image[28:36, 28:36] = 0
    areas = sorted((signed_area(contour) for contour in contours(trace(image, 1.0))), key=abs)
    assert [np.sign(area) for area in areas] == [-1, 1, -1], "y is up, so clockwise is negative"
    assert [abs(area) * 64**2 for area in areas] == pytest.approx([64, 576, 2304], rel=0.03)


def test_blank_images_specks_and_full_images():
    image = PAPER.copy()
    assert len(trace(image, 0.875).codes) == 0
    image[10, 10] = 100
    assert len(trace(image, 0.875).codes) == 0, "contours of less than half a pixel are left out"
    full = trace(np.zeros((64, 64), np.uint8), 1.0)
    assert [abs(signed_area(contour)) for contour in contours(full)] == pytest.approx([1], abs=0.01)
