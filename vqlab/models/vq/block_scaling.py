"""Standardisation of a record by the mean and deviation of its neighbourhood, as integers that undo it."""

from dataclasses import dataclass

import numpy as np

FLAT = 1e-3  # a block is not scaled up to 1 if its deviation is below this fraction of the record's
PER_OCTAVE = 4  # steps of a scale per factor of 2
PER_SCALE = 8  # steps of a mean per scale


@dataclass(frozen=True)
class FixedScaling:
    """Mean and scale of each channel, (C, 1) float64, the same for all samples."""

    mean: np.ndarray
    scale: np.ndarray

    def curves(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and scale of the samples from ``first`` to ``last``, (C, 1)."""
        return self.mean, self.scale


@dataclass(frozen=True)
class BlockScaling:
    """Mean and scale of each channel and block, in few bits, with interpolation between the centres of the blocks.

    scale_b = unit 2^(gains_b / 4), mean_b = center + scale_b offsets_b / 8; the scale is interpolated in its logarithm.
    """

    block: int  # samples of a block; the last block holds the remainder as well
    center: np.ndarray  # (C,) float32, mean of the record
    unit: np.ndarray  # (C,) float32, deviation of the record
    gains: np.ndarray  # (C, n) int64
    offsets: np.ndarray  # (C, n) int64

    @classmethod
    def fit(cls, signal: np.ndarray, block: int) -> "BlockScaling":
        """Return the scaling of a record (C, T)."""
        starts = np.arange(count_blocks(signal.shape[1], block)) * block
        parts = [part.astype(np.float64) for part in np.split(signal, starts[1:], axis=1)]
        means = np.stack([part.mean(1) for part in parts], 1)
        variances = np.stack([part.var(1) for part in parts], 1)
        weights = np.array([part.shape[1] for part in parts]) / signal.shape[1]
        center = (means @ weights).astype(np.float32)
        unit = np.sqrt((variances + (means - center[:, None]) ** 2) @ weights).astype(np.float32)
        size = np.where(unit > 0, unit, 1)[:, None].astype(np.float64)
        gains = np.rint(PER_OCTAVE * np.log2(np.maximum(np.sqrt(variances) / size, FLAT))).astype(np.int64)
        offsets = np.rint(PER_SCALE * (means - center[:, None]) / (size * 2 ** (gains / PER_OCTAVE))).astype(np.int64)
        return cls(block, center, unit, gains, offsets)

    def curves(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and scale of the samples from ``first`` to ``last``, (C, last - first) float64."""
        octaves = self.gains / PER_OCTAVE
        means = self.center[:, None] + self.unit[:, None] * 2**octaves * self.offsets / PER_SCALE
        places = (np.arange(first, last) + 0.5) / self.block - 0.5  # in blocks; that of a centre is its number
        numbers = np.arange(octaves.shape[1])
        mean = np.stack([np.interp(places, numbers, row) for row in means])
        return mean, self.unit[:, None] * 2 ** np.stack([np.interp(places, numbers, row) for row in octaves])


def count_blocks(samples: int, block: int) -> int:
    """Return the number of blocks of a record."""
    return max(1, samples // block)
