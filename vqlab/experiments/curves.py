"""One metric of many runs as an SVG: running means over the raw values."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure

from vqlab.experiments.runs import Series
from vqlab.experiments.text import printable

FEW = 20  # points up to which a line is drawn without smoothing
WINDOW = 0.04  # fraction of a line over which it is smoothed
POINTS = 3000  # of all lines of one picture together
WIDE = 30.0  # ratio of largest and smallest value from which an axis is logarithmic
COLOURS = colormaps["tab10"].colors  # type: ignore[attr-defined]
DASHES = ("-", "--", ":")  # an eleventh group has the first colour again, dashed
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": ["sans-serif"],
    "font.size": 8,
}


def draw(lines: Sequence[tuple[int, str, Series]], log: bool) -> bytes:
    """Return the picture of one metric.

    Args:
        lines: For each run the number of its group, which sets its colour, the group's name, and its values.
        log: Whether the axis may be logarithmic.
    """
    with rc_context(STYLE):
        groups = {number: name for number, name, _ in lines}
        figure = Figure(figsize=(4.8, 2.7 + 0.15 * (len(groups) // 2)), layout="constrained")
        axes = figure.subplots()
        handles, shown = {}, []
        for number, _, series in lines:
            steps, values = np.array(series).T
            look = {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number // len(COLOURS) % len(DASHES)]}
            smoothed = smooth(values)
            if len(series) > FEW:
                kept = thin(values, POINTS // (2 * len(lines)))
                axes.plot(steps[kept], values[kept], alpha=min(0.25, 2 / len(lines)), linewidth=0.6, **look)
            kept = thin(smoothed, POINTS // (2 * len(lines)))
            marker = "." if len(series) <= FEW else None
            (handles[number],) = axes.plot(steps[kept], smoothed[kept], marker=marker, linewidth=1.2, **look)
            shown.append(smoothed[np.isfinite(smoothed)])
        if len(finite := np.concatenate(shown)):
            if log and finite.min() > 0 and finite.max() / finite.min() > WIDE:
                axes.set_yscale("log")
            elif finite.max() > finite.min():
                margin = 0.06 * (finite.max() - finite.min())
                axes.set_ylim(
                    finite.min() - margin, finite.max() + margin
                )  # of the means: single values may lie outside
        axes.set_xlim(left=0)
        axes.grid(axis="y", linewidth=0.4)
        axes.spines[["top", "right"]].set_visible(False)
        if len(groups) > 1:
            names = [
                f" {printable(name)[:60]}" for name in groups.values()
            ]  # a name that starts with _ would be left out
            figure.legend(list(handles.values()), names, loc="outside lower left", ncols=2, frameon=False)
        content = io.BytesIO()
        figure.savefig(content, format="svg")
    return content.getvalue()


def smooth(values: np.ndarray) -> np.ndarray:
    """Return means of the finite values around each value; a line of few points as it is."""
    if len(values) <= FEW:
        return values
    finite, window = np.isfinite(values), np.ones(max(1, round(WINDOW * len(values))))
    sums = np.convolve(np.where(finite, values, 0.0), window, "same")
    counts = np.convolve(finite, window, "same")
    return np.where(finite, sums / np.maximum(counts, 1), np.nan)


def thin(values: np.ndarray, points: int) -> np.ndarray:
    """Return the places of at most about ``points`` values: the smallest and the largest of each interval."""
    if len(values) <= points:
        return np.arange(len(values))
    kept = {len(values) - 1}
    for places in np.array_split(np.arange(len(values)), max(1, points // 2)):
        if len(finite := places[np.isfinite(values[places])]):
            kept |= {int(finite[values[finite].argmin()]), int(finite[values[finite].argmax()])}
        else:
            kept.add(int(places[0]))  # the line is broken here
    return np.array(sorted(kept))
