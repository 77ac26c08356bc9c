"""Signals at another rate, and the stretches between their gaps.

Shapes: C channels, T samples.
"""

from fractions import Fraction

import numpy as np
from scipy.signal import resample_poly

from vqlab.errors import UserError


def finite_runs(signal: np.ndarray) -> list[tuple[int, int]]:
    """Return start and end of each stretch of (C, T) in which no channel is NaN.

    Example:
        >>> finite_runs(np.array([[1, np.nan, 2, 3, 4], [1, 2, 3, 4, np.nan]]))
        [(0, 1), (2, 4)]
    """
    known = np.concatenate([[False], ~np.isnan(signal).any(0), [False]])
    edges = np.flatnonzero(known[1:] != known[:-1])
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def change_rate(signal: np.ndarray, old: float, new: float | None) -> np.ndarray:
    """Return (C, T) at ``new`` samples per second, low-pass filtered against aliases (polyphase, zero phase)."""
    if new is None or new == old:
        return signal
    ratio = Fraction(new / old).limit_denominator(10_000)
    if not ratio:
        raise UserError(f"resample must be higher for records of {old:g} samples per second, got {new:g}")
    # "line" takes a trend out first: a signal that does not start or end at 0 would ring there.
    return resample_poly(signal, ratio.numerator, ratio.denominator, axis=-1, padtype="line").astype(np.float32)


def at_common_rate(channels: list[np.ndarray], rates: list[float]) -> tuple[np.ndarray, float]:
    """Return channels (C, T) at the highest of their rates, and that rate; a gap stays a gap.

    Example:
        >>> signal, rate = at_common_rate([np.arange(8.0), np.array([0, 2, np.nan, 6])], [100, 50])
        >>> signal.shape, rate, np.isnan(signal[1]).tolist()
        ((2, 8), 100, [False, False, False, True, True, True, False, False])
    """
    rate = max(rates)
    length = max(len(channel) for channel, its in zip(channels, rates, strict=True) if its == rate)
    return np.stack([_bring_up(*pair, rate, length) for pair in zip(channels, rates, strict=True)]), rate


def _bring_up(channel: np.ndarray, old: float, new: float, length: int) -> np.ndarray:
    missing = np.isnan(channel)
    if old == new or missing.all():
        return np.resize(channel, length).astype(np.float32)
    places = np.arange(len(channel))
    filled = np.interp(places, places[~missing], channel[~missing])  # the filter would spread a NaN
    changed = change_rate(filled[None], old, new)[0][:length]
    before = np.arange(length) * old / new
    nearest = [np.minimum(side(before.round(6)).astype(int), len(channel) - 1) for side in (np.floor, np.ceil)]
    changed[missing[nearest[0]] | missing[nearest[1]]] = np.nan
    return changed
