"""One metric of many runs as an SVG: the mean and the range of the values in intervals of steps."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure

from vqlab.experiments.runs import Series
from vqlab.experiments.text import printable

INTERVALS = 100  # of a line
COLOURS = colormaps["tab10"].colors  # type: ignore[attr-defined]
DASHES = ("-", "--", ":")  # from the eleventh group on, the colours repeat with dashes
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "text.parse_math": False, "font.family": ["sans-serif"]}


def draw(lines: Sequence[tuple[int, str, Series]], log: bool) -> bytes:
    """Return the picture of one metric; ``lines`` are (number of the group, for the colour; its name; values)."""
    groups = {number: f" {printable(name)[:60]}" for number, name, _ in lines}  # matplotlib hides a label like _x
    columns = 2 if max(map(len, groups.values())) <= 24 else 1
    handles, shown = {}, []
    with rc_context(STYLE):
        figure = Figure(figsize=(4.8, 2.7 + 0.2 * math.ceil(len(groups) / columns)), layout="constrained")
        axes = figure.subplots()
        for number, _, series in lines:
            steps, means, least, most = intervals(series)
            look = {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number // len(COLOURS) % len(DASHES)]}
            axes.fill_between(steps, least, most, color=look["color"], alpha=min(0.25, 1 / len(lines)), linewidth=0)
            marker = "." if len(series) <= 20 else None
            (handles[number],) = axes.plot(steps, means, marker=marker, linewidth=1.2, **look)
            shown.append(means[np.isfinite(means)])
        if len(finite := np.concatenate(shown)):
            low, high = finite.min(), finite.max()  # of the means: single values may lie outside
            if log and low > 0 and high / low > 30:
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter("{x:g}")  # the default is a formula, which STYLE does not parse
                axes.yaxis.set_minor_formatter("")
            elif high > low:
                axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
        axes.set_xlim(left=0)
        axes.grid(axis="y", linewidth=0.4)
        axes.spines[["top", "right"]].set_visible(False)
        if len(groups) > 1:
            place: dict[str, Any] = {"loc": "outside lower left", "ncols": columns, "frameon": False}
            figure.legend(list(handles.values()), list(groups.values()), fontsize="small", **place)
        content = io.BytesIO()
        figure.savefig(content, format="svg", transparent=True)
    return content.getvalue()


def intervals(series: Series) -> np.ndarray:
    """Return last step, mean, minimum and maximum of each interval, (4, intervals); NaN without a finite value."""
    found = []
    for part in np.array_split(np.array(series, float), min(INTERVALS, len(series))):
        finite = part[np.isfinite(part[:, 1]), 1]
        values = (finite.mean(), finite.min(), finite.max()) if len(finite) else (math.nan,) * 3
        found.append((part[-1, 0], *values))
    return np.array(found).T
