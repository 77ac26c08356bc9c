"""Area and cubic resampling as matrices in float64, pixel by pixel, for maps (B, D, *spatial) with equal edges."""

import math

import torch


def area(size, full):
    """Matrix (size, full) that averages over the area of each target pixel."""
    matrix = torch.zeros(size, full, dtype=torch.float64)
    for i in range(size):
        start, end = math.floor(i * full / size), math.ceil((i + 1) * full / size)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def cubic(t, a=-0.75):
    """Keys' kernel of cubic convolution."""
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def linear(t):
    return max(0.0, 1 - abs(t))


def interpolation(size, full, kernel):
    """Matrix (full, size) that interpolates between the target pixels' centres; the border is repeated."""
    matrix = torch.zeros(full, size, dtype=torch.float64)
    for i in range(full):
        center = (i + 0.5) * size / full - 0.5
        for j in range(-3, size + 3):
            matrix[i, min(max(j, 0), size - 1)] += kernel(center - j)
    return matrix


def along_each_axis(matrix, f):
    for axis in range(2, f.ndim):
        f = torch.tensordot(matrix, f, dims=([1], [axis])).movedim(0, axis)
    return f


def down(f, size):
    return along_each_axis(area(size, f.shape[-1]), f)


def up(f, full):
    return along_each_axis(interpolation(f.shape[-1], full, cubic if f.ndim == 4 else linear), f)
