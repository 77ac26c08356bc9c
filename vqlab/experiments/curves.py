"""One metric of many runs as an SVG: smoothed lines over the raw values, in light and dark colours."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vqlab.experiments.markup import Markup, tag
from vqlab.experiments.metrics_log import Series
from vqlab.experiments.runs import direction

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 62, WIDTH - 10, 10, HEIGHT - 30  # of the frame
POINTS = 3000  # of all lines of one picture together
FEW = 20  # points up to which a line is drawn without smoothing
WINDOW = 0.04  # fraction of a line over which it is smoothed
WIDE = 30.0  # ratio of largest and smallest value from which an axis is logarithmic
COLOURS = 8
DASHES = ("", "6 3", "2 3")  # a ninth line has the first colour again, dashed
STYLE = Path(__file__).with_name("curves.css")


@dataclass(frozen=True)
class Line:
    """A run in a picture: its name, name and number of its group (repeats), which sets its colour, and its values."""

    name: str
    group: str
    number: int
    series: Series

    def path(self, series: Series, x: "Axis", y: "Axis", raw: bool = False, **attributes: object) -> Markup:
        """Return the line through a series, broken where a value is not finite, with a title unless it is ``raw``."""
        moves, pen = [], "M"
        for step, value in series:
            if not y.has(value):
                pen = "M"
                continue
            inside = min(max(value, y.low), y.high)
            moves.append(f"{pen}{x.place(step):.1f} {y.place(inside):.1f}")
            pen = "L"
        title = () if raw else (tag("title", self.name),)
        return tag("path", *title, **self.look(raw), **attributes, d="".join(moves))

    def look(self, raw: bool = False) -> dict[str, object]:
        """Return the attributes of colour and group."""
        return {"class_": f"{'raw ' if raw else ''}c{self.number % COLOURS}", "data_group": self.number}

    @property
    def dash(self) -> str | None:
        """Its dashes and gaps; None for the first lines of each colour."""
        return DASHES[self.number // COLOURS % len(DASHES)] or None


@dataclass(frozen=True)
class Axis:
    """Values from ``low`` to ``high``, and the pixels of these two."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def has(self, value: float) -> bool:
        """Whether a value can be drawn."""
        return math.isfinite(value) and not (self.log and value <= 0)

    def place(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return round values: multiples of 1, 2 or 5 times a power of ten, or powers of ten."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            coarse = math.ceil(len(powers) / 6)
            tens = [10.0**n for n in powers if n % coarse == 0 and self.low <= 10.0**n <= self.high]
            fine = [v for n in powers for m in (1, 2, 5) if self.low <= (v := m * 10.0**n) <= self.high]
            return tens if len(tens) > 2 else fine
        least = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(least))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= least * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def draw(metric: str, lines: Sequence[Line], legend: bool = False) -> Markup:
    """Return the picture of one metric.

    Args:
        metric: Its name, for screen readers.
        lines: The runs.
        legend: Whether the picture stands alone, with its style and the names of the groups below.
    """
    budget = max(24, POINTS // (2 * len(lines)))
    drawn = [(line, thin(smooth(line.series), budget), thin(line.series, budget)) for line in lines]
    x = Axis(0, max((step for line in lines for step, _ in line.series), default=1) or 1, LEFT, RIGHT)
    y = value_axis([value for _, smoothed, _ in drawn for _, value in smoothed], log=direction(metric) != "max")
    parts = list(frame(x, y))
    opacity = f"{min(0.25, 2 / len(lines)):.2g}"  # so that the raw values of many runs do not hide the lines
    for line, smoothed, raw in drawn:
        if len(line.series) > FEW:
            parts.append(line.path(raw, x, y, raw=True, opacity=opacity))
        parts.append(line.path(smoothed, x, y, stroke_dasharray=line.dash))
        if len(line.series) <= FEW:
            dots = [(f"{x.place(step):.1f}", f"{y.place(value):.1f}") for step, value in smoothed if y.has(value)]
            parts += [tag("circle", tag("title", line.name), **line.look(), cx=cx, cy=cy, r="2.5") for cx, cy in dots]
    names = list(legend_of(lines)) if legend else []
    style = [tag("style", Markup(STYLE.read_text()))] if legend else []
    box = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {WIDTH} {HEIGHT + 18 * len(names)}"}
    return tag("svg", *style, *parts, *names, **box, class_="plot", role="img", aria_label=metric)


def frame(x: Axis, y: Axis) -> Iterator[Markup]:
    """Yield rules and numbers of both axes."""
    for value in y.ticks():
        place = y.place(value)
        yield tag("path", class_="rule", d=f"M{LEFT} {place:.1f}H{RIGHT}")
        yield tag("text", label(value), x=LEFT - 6, y=f"{place + 4:.1f}", text_anchor="end")
    for value in x.ticks():
        anchor = "end" if x.place(value) > RIGHT - 12 else "middle"
        yield tag("text", label(value), x=f"{x.place(value):.1f}", y=BOTTOM + 18, text_anchor=anchor)
    yield tag("path", class_="rule", d=f"M{LEFT} {BOTTOM}H{RIGHT}")


def legend_of(lines: Sequence[Line]) -> Iterator[Markup]:
    """Yield a line of the legend for each group."""
    for place, line in enumerate({line.number: line for line in lines}.values()):
        y = HEIGHT + 12 + 18 * place
        yield tag("path", **line.look(), stroke_dasharray=line.dash, d=f"M{LEFT} {y - 4}h24")
        yield tag("text", line.group, x=LEFT + 32, y=y)


def value_axis(values: Sequence[float], log: bool) -> Axis:
    """Return an axis with all finite values; logarithmic, if that is allowed, where their ratio is large."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    if log and low > 0 and high / low > WIDE:
        return Axis(low / 1.1, high * 1.1, BOTTOM, TOP, log=True)
    margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    return Axis(low - margin, high + margin, BOTTOM, TOP)


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
    """Return at most about ``points`` points: the smallest and the largest of each interval, in order."""
    if len(series) <= points:
        return series
    size = math.ceil(len(series) / max(1, points // 2))
    kept: Series = []
    for start in range(0, len(series), size):
        interval = series[start : start + size]
        finite = [point for point in interval if math.isfinite(point[1])]
        ends = {choose(finite, key=lambda point: point[1]) for choose in (min, max)} if finite else interval[:1]
        kept += sorted(ends)
    return kept if kept[-1] == series[-1] else [*kept, series[-1]]


def label(value: float) -> str:
    """Return the number at a tick.

    Example:
        >>> label(20000.0), label(0.30000000000000004), label(1e-05), label(0.0), label(1500.0)
        ('20k', '0.3', '1e-05', '0', '1.5k')
    """
    if 1000 <= abs(value) < 1e6:
        return f"{value / 1000:.4g}k"
    return f"{value:.4g}"
