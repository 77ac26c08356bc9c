"""One metric of many runs as an SVG: smoothed lines with the raw values behind, light and dark."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vqlab.experiments.markup import Markup, tag
from vqlab.experiments.metrics_log import Series
from vqlab.experiments.runs import direction

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 62, 10, 10, 30
POINTS = 3000  # of all lines of one picture together
FEW = 20  # points up to which a line is drawn as it is
WINDOW = 0.04  # share of a line that smoothing looks back on, roughly
WIDE = 30.0  # largest by smallest value from which an axis is logarithmic
COLOURS = 8
DASHES = ("", "6 3", "2 3")  # a ninth line has the first colour again, dashed
STYLE = """
.plot{--ink:#30363d;--faint:#d0d7de;font:13px system-ui,sans-serif}
.c0{--c:#0969da}.c1{--c:#bc4c00}.c2{--c:#1a7f37}.c3{--c:#cf222e}.c4{--c:#8250df}.c5{--c:#9a6700}.c6{--c:#bf3989}.c7{--c:#57606a}
@media(prefers-color-scheme:dark){.plot{--ink:#c9d1d9;--faint:#30363d}
.c0{--c:#58a6ff}.c1{--c:#f0883e}.c2{--c:#3fb950}.c3{--c:#ff7b72}.c4{--c:#bc8cff}.c5{--c:#d29922}.c6{--c:#f778ba}.c7{--c:#8b949e}}
.plot text{fill:var(--ink)}.plot .rule{stroke:var(--faint);stroke-width:1}
.plot path{stroke:var(--c);fill:none;stroke-width:1.8;stroke-linejoin:round}.plot .raw{stroke-width:1}
.plot circle{fill:var(--c)}
"""


@dataclass(frozen=True)
class Line:
    """A run in a picture: its name, the name and number of the group that shares its colour, and its values."""

    name: str
    group: str
    colour: int
    series: Series

    @property
    def css(self) -> str:
        """Class of its colour."""
        return f"c{self.colour % COLOURS}"

    @property
    def dash(self) -> str:
        """Its dashes and gaps; none for the first lines of each colour."""
        return DASHES[self.colour // COLOURS % len(DASHES)]


@dataclass(frozen=True)
class Axis:
    """Where values lie between two ends of a picture, ``start`` and ``end`` in pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return round values between the ends."""
        if not self.log:
            step = round_step((self.high - self.low) / 5)
            first = math.ceil(self.low / step - 1e-9)
            return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        coarse = max(1, math.ceil(len(decades) / 6))
        tens = [10.0**d for d in decades if d % coarse == 0 and self.low <= 10.0**d <= self.high]
        if len(tens) > 2:
            return tens
        return [v for d in decades for m in (1, 2, 5) if self.low <= (v := m * 10.0**d) <= self.high]


def draw(metric: str, lines: Sequence[Line], legend: bool = False) -> Markup:
    """Return the picture of one metric.

    Args:
        metric: Its name, for those who do not see the picture.
        lines: The runs.
        legend: Whether the picture stands alone, with its style and the names of the runs below.
    """
    budget = max(24, POINTS // (2 * len(lines)))
    drawn = [(line, thin(smooth(line.series), budget), thin(line.series, budget)) for line in lines]
    shown = [value for _, smoothed, _ in drawn for _, value in smoothed if math.isfinite(value)]
    steps = [step for line in lines for step, _ in line.series]
    x = Axis(0, max(steps, default=1) or 1, LEFT, WIDTH - RIGHT)
    y = value_axis(shown, log=direction(metric) != "max")
    parts = list(frame(x, y))
    faint = min(0.25, 2 / len(lines))  # or the raw values of many runs are a thicket
    for line, smoothed, raw in drawn:
        title, look = tag("title", line.name), {"class_": line.css, "data_group": line.colour}
        if len(line.series) > FEW:
            faded = {"class_": f"raw {line.css}", "data_group": line.colour, "opacity": f"{faint:.2g}"}
            parts.append(tag("path", **faded, d=path(raw, x, y)))
        parts.append(tag("path", title, **look, stroke_dasharray=line.dash or None, d=path(smoothed, x, y)))
        if len(line.series) <= FEW:
            dots = [(x.place(step), y.place(value)) for step, value in smoothed if is_drawable(value, y)]
            parts += [tag("circle", title, **look, cx=f"{cx:.1f}", cy=f"{cy:.1f}", r="2.5") for cx, cy in dots]
    names = list(key(lines)) if legend else []
    box = f"0 0 {WIDTH} {HEIGHT + 18 * len(names)}"
    style = [tag("style", Markup(STYLE))] if legend else []
    named = {"class_": "plot", "xmlns": "http://www.w3.org/2000/svg", "viewBox": box, "role": "img"}
    return tag("svg", *style, *parts, *names, **named, aria_label=metric)


def frame(x: Axis, y: Axis) -> Iterator[Markup]:
    """Yield rules and numbers of both axes."""
    bottom = HEIGHT - BOTTOM
    for value in y.ticks():
        place = y.place(value)
        yield tag("path", class_="rule", d=f"M{LEFT} {place:.1f}H{WIDTH - RIGHT}")
        yield tag("text", label(value), x=LEFT - 6, y=f"{place + 4:.1f}", text_anchor="end")
    for value in x.ticks():
        anchor = "end" if x.place(value) > WIDTH - RIGHT - 12 else "middle"
        yield tag("text", label(value), x=f"{x.place(value):.1f}", y=bottom + 18, text_anchor=anchor)
    yield tag("path", class_="rule", d=f"M{LEFT} {bottom}H{WIDTH - RIGHT}")


def key(lines: Sequence[Line]) -> Iterator[Markup]:
    """Yield a line of the legend for each group."""
    first: dict[int, Line] = {}
    for line in lines:
        first.setdefault(line.colour, line)
    for place, line in enumerate(first.values()):
        y = HEIGHT + 12 + 18 * place
        yield tag("path", class_=line.css, stroke_dasharray=line.dash or None, d=f"M{LEFT} {y - 4}h24")
        yield tag("text", line.group, x=LEFT + 32, y=y)


def value_axis(values: Sequence[float], log: bool) -> Axis:
    """Return the axis on which all values have room; logarithmic, if it may be, where they span decades."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if log and low > 0 and high / low > WIDE:
        return Axis(low / 1.1, high * 1.1, HEIGHT - BOTTOM, TOP, log=True)
    room = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    return Axis(low - room, high + room, HEIGHT - BOTTOM, TOP)


def path(series: Series, x: Axis, y: Axis) -> str:
    """Return the path of a series; broken where a value is not finite, kept inside the frame."""
    moves, pen = [], "M"
    for step, value in series:
        if not is_drawable(value, y):
            pen = "M"
            continue
        inside = min(max(value, y.low), y.high)
        moves.append(f"{pen}{x.place(step):.1f} {y.place(inside):.1f}")
        pen = "L"
    return "".join(moves)


def is_drawable(value: float, y: Axis) -> bool:
    """Whether an axis has a place for a value."""
    return math.isfinite(value) and not (y.log and value <= 0)


def smooth(series: Series) -> Series:
    """Return exponential means, corrected for their start; a series of few points as it is.

    Example:
        >>> smooth([(step, 3.0) for step in range(100)])[-1]
        (99, 3.0)
    """
    if len(series) <= FEW:
        return series
    keep = 1 - 1 / max(1.0, WINDOW * len(series))
    total = weight = 0.0
    smoothed = []
    for step, value in series:
        if math.isfinite(value):
            total, weight = keep * total + value, keep * weight + 1
        smoothed.append((step, round(total / weight, 12) if weight and math.isfinite(value) else math.nan))
    return smoothed


def thin(series: Series, points: int) -> Series:
    """Return at most about ``points`` points: the smallest and the largest of each stretch, in order."""
    if len(series) <= points:
        return series
    size = math.ceil(len(series) / max(1, points // 2))
    kept: Series = []
    for start in range(0, len(series), size):
        stretch = series[start : start + size]
        finite = [point for point in stretch if math.isfinite(point[1])]
        if finite:
            ends = {min(finite, key=lambda p: p[1]), max(finite, key=lambda p: p[1])}
            kept += sorted(ends)
        else:
            kept.append(stretch[0])
    return kept if kept[-1] == series[-1] else [*kept, series[-1]]


def round_step(step: float) -> float:
    """Return the next of 1, 2, 5 times a power of ten.

    Example:
        >>> round_step(0.3), round_step(7), round_step(1200)
        (0.5, 10.0, 2000.0)
    """
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))


def label(value: float) -> str:
    """Return the number at a tick.

    Example:
        >>> label(20000.0), label(0.30000000000000004), label(1e-05), label(0.0), label(1500.0)
        ('20k', '0.3', '1e-05', '0', '1.5k')
    """
    if 1000 <= abs(value) < 1e6:
        return f"{value / 1000:.4g}k"
    return f"{value:.4g}"
