"""Numbers and tables as text."""

import re
from collections.abc import Iterable, Iterator, Sequence

# Control characters, bidirectional overrides, and surrogates, which file names and JSON may hold.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return text in one line without unprintable characters."""
    return UNPRINTABLE.sub(lambda found: " " if found[0].isspace() else "�", text)


def short(value: float | None, digits: int = 4) -> str:
    """Return a number with ``digits`` significant digits, without an exponent for common magnitudes.

    Example:
        >>> short(0.123456), short(1329.28), short(7.0), short(1e-05), short(122.3, 2), short(1329.28, 2)
        ('0.1235', '1,329', '7', '1e-05', '122', '1,329')
    """
    if value is None:
        return "-"
    return f"{value:,.0f}" if 10 ** (digits - 1) <= abs(value) < 1e7 else f"{value:.{digits}g}"


def plural(count: int, thing: str) -> str:
    """Return ``1 run`` or ``2 runs``."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def align(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield rows of cells as lines with aligned columns."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def duration(seconds: float) -> str:
    """Return a time for a message: 90 seconds, 45 minutes, 5 hours, 11 days."""
    units = (("days", 86_400), ("hours", 3_600), ("minutes", 60), ("seconds", 1))
    unit, size = next((unit for unit in units if seconds >= 2 * unit[1]), units[-1])
    return f"{seconds / size:.0f} {unit}"
