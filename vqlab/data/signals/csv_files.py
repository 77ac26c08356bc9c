"""Signals in csv files, a sample a line and a column a channel, as loggers, PhysioNet and data frames write them."""

import csv
import re
from datetime import datetime
from typing import NamedTuple

import numpy as np

GAPS = {"", "na", "nan", "n/a", "null", "none", "-", "?"}  # fields in which nothing was recorded, in lower case
COMMENTS = ("#", "%", "//")
SEPARATORS = (";", "\t", ",")
# A line of these below the names holds units: PhysioNet's 'hh:mm:ss.mmm','mV', or (s),(uV).
UNIT = re.compile(
    r"[\[(]?([munpkμµ]?(v|s|a|g|pa|bar|hz)|sec|sec(ond)?s|mmhg|bpm|nu|%|(hh:)?mm:ss.*|samples?|)[\])]?", re.IGNORECASE
)
CERTAIN = {"time", "times", "timestamp", "timestamps", "datetime", "elapsed"}  # of times, whatever their values
TIMES = {"t", "s", "sec", "secs", "seconds", "date"}
COUNTERS = {"sample", "samples", "index", "idx", "unnamed", "row", "frame", "n", "id", "no"}
SECONDS = {"ms": 1e-3, "msec": 1e-3, "milliseconds": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "min": 60.0}
CLOCK = re.compile(r"\[?(?:(\d+):)?(\d+):(\d+(?:[.,]\d*)?)(?: \d+/\d+/\d+\])?")


class Table(NamedTuple):
    """The content of a csv file.

    Args:
        values: (rows, columns) float64 without columns of times; NaN for gaps.
        names: The names of the columns; None where the file has none.
        time: The name of a column of times or of numbers of samples that was taken out; None where there is none.
        sample_rate: Samples per second by the times; None without times.
        labels: first or last, where this column was taken out as the labels of the lines.
    """

    values: np.ndarray
    names: list[str] | None
    time: str | None = None
    sample_rate: float | None = None
    labels: str | None = None


def read_csv(content: bytes, records: bool = False) -> Table:
    r"""Return the numbers of a csv file.

    Fields are separated by semicolons, tabs, commas or blanks, and may be quoted; numbers may have a decimal comma
    where commas do not separate. Comments and lines above the one with the names are left out. Empty fields, NA, nan,
    null, - and ? are gaps. A column that rises evenly is one of times if its name is such, if it holds hours, minutes
    and seconds, or if it is the first and has no name.

    Args:
        content: The bytes of the file.
        records: Whether each line is a record; then no column is one of times, and if the first or the last column
            alone holds integers, these are labels.

    Raises:
        ValueError: If a line is not of numbers, or has more or fewer fields; the message names the line.

    Example:
        >>> table = read_csv(b"time;ecg\n0,000;0,5\n0,004;NA\n0,008;1,5\n")
        >>> table.values.tolist(), table.names, table.sample_rate
        ([[0.5], [nan], [1.5]], ['ecg'], 250.0)
    """
    numbered = enumerate(decode(content).splitlines(), start=1)
    lines = [(n, line) for n, line in numbered if line.strip() and not line.lstrip().startswith(COMMENTS)]
    head = [line for _, line in lines[:100]]
    separator = next((sign for sign in SEPARATORS if 2 * sum(sign in line for line in head) >= len(head)), None)
    start = next((i for i, line in enumerate(head) if is_data(split(line, separator))), None)
    if start is None:
        second = split(head[min(1, len(head) - 1)], separator) if head else []
        raise ValueError(f"no line of numbers; its second line is {', '.join(second)[:40]}")
    columns = [name for name in split(head[start], separator) if name]
    # A data frame without names of its own writes the numbers of its columns above, and of its lines at the left.
    is_counted = columns == [str(i) for i in range(max(3, len(columns)))] and "." in "".join(head[start + 1 :][:1])
    values, clocks = read_rows(lines[start + is_counted :], separator)
    names, units = find_names(lines[:start], separator, values.shape[1])
    if is_counted:
        values = values[:, -len(columns) :]
    elif np.isnan(values[:, -1]).all() and not (names and names[values.shape[1] - 1 :] > [""]):
        values = values[:, :-1]  # each line ends with a separator
    if names and len(names := names[: values.shape[1]]) < values.shape[1]:
        raise ValueError(f"it has {len(names)} names above {values.shape[1]} columns")
    if records:
        labels = find_labels(values)
        keep = slice(int(labels == "first"), values.shape[1] - int(labels == "last"))
        return Table(values[:, keep], names and names[keep], labels=labels)
    times, name, rate = find_times(values, names, units, clocks)
    others = [column for column in range(values.shape[1]) if column not in times]
    return Table(values[:, others], names and [names[i] for i in others], name, rate)


def decode(content: bytes) -> str:
    """Return the text of a file in UTF-16 with a byte order mark, UTF-8 or Latin-1."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")  # µ and °; numbers are the same in every encoding


def split(line: str, separator: str | None) -> list[str]:
    """Return the fields of a line without blanks and quotes around them."""
    if '"' in line and separator is not None:
        fields = next(csv.reader([line], delimiter=separator, skipinitialspace=True))
    else:
        fields = line.split(separator)
    return [field.strip().strip("\"'").strip() for field in fields]


def is_data(fields: list[str]) -> bool:
    """Return whether all fields are numbers, times or gaps, and not all are gaps."""
    return None not in map(to_number, fields) and not all(field.lower() in GAPS for field in fields)


def to_number(field: str) -> float | None:
    """Return a number, also with a decimal comma, NaN for a gap, the seconds of a time; None for others.

    Times are 1:02.5, 0:01:02.5, [00:01:02.500 01/02/1990] or 1990-02-01T00:01:02.5.
    """
    if field.lower() in GAPS:
        return float("nan")
    if clock := CLOCK.fullmatch(field):
        hours, minutes, seconds = clock.groups()
        return 3600 * int(hours or 0) + 60 * int(minutes) + float(seconds.replace(",", "."))
    try:
        if "-" in field and ":" in field:
            return datetime.fromisoformat(field).timestamp()
        return float(field if "." in field else field.replace(",", ".", 1))
    except ValueError:
        return None


def read_rows(lines: list[tuple[int, str]], separator: str | None) -> tuple[np.ndarray, set[int]]:
    """Return the values of lines of numbers, and the columns that hold times.

    Raises:
        ValueError: If a line has more or fewer fields than the first or holds something else; if decimal commas are
            mixed with decimal points.
    """
    try:  # fast, for numbers and nothing else
        plain = (line for _, line in lines)
        return np.loadtxt(plain, delimiter=separator, ndmin=2, comments=None, quotechar='"'), set()
    except ValueError:
        pass
    rows: list[list[float]] = []
    clocks: set[int] = set()
    marks: set[str] = set()
    for number, line in lines:
        fields = split(line, separator)
        row = [value for value in map(to_number, fields) if value is not None]
        if len(row) < len(fields):
            wrong = next(field for field in fields if to_number(field) is None)
            raise ValueError(f"line {number} holds {wrong[:20]!r}, which is no number")
        if rows and len(row) != len(rows[0]):
            raise ValueError(f"line {number} has {len(row)} fields where the lines before have {len(rows[0])}")
        clocks.update(column for column, field in enumerate(fields) if ":" in field)
        marks.update(mark for field in fields if ":" not in field for mark in ",." if mark in field)
        if len(marks) == 2:
            raise ValueError(
                f"line {number} has a decimal {'comma' if ',' in line else 'point'}, others the other mark"
            )
        rows.append(row)
    return np.array(rows, np.float64), clocks


def find_names(
    lines: list[tuple[int, str]], separator: str | None, columns: int
) -> tuple[list[str] | None, list[str] | None]:
    """Return the names in the lines above the numbers, and the units below the names; None where there are none.

    Raises:
        ValueError: If the line of names has another number of fields than the lines of numbers, or holds numbers.
    """
    if not lines:
        return None, None
    fields = [split(line, separator) for _, line in lines]
    units = fields.pop() if len(fields) > 1 and all(UNIT.fullmatch(field) for field in fields[-1]) else None
    names, (number, _) = fields[-1], lines[len(fields) - 1]
    if not columns - 1 <= len(names) <= columns:
        raise ValueError(f"line {number} has {len(names)} fields where the numbers below have {columns}")
    numeric = [name for name in names if name.lower() not in GAPS and to_number(name) is not None]
    # Channels may have numbers for names, but only in the first line, and whole ones after another name.
    if numeric and (len(fields) > 1 or names[0] in numeric or "." in "".join(numeric)):
        text = next(name for name in names if to_number(name) is None)
        raise ValueError(f"line {number} holds {text[:20]!r}, which is no number")
    return names, units


def find_times(
    values: np.ndarray, names: list[str] | None, units: list[str] | None, clocks: set[int]
) -> tuple[set[int], str | None, float | None]:
    """Return the columns of times or of numbers of samples, the name of one, and the samples per second by the times.

    Raises:
        ValueError: If times do not rise evenly.
    """
    found: set[int] = set()
    shown, rate = None, None
    for column in range(values.shape[1] if values.shape[1] > 1 else 0):
        name = names[column] if names else ""
        words = set(re.findall("[a-zµμ]+", name.lower()))
        steps = even_steps(values[:, column])
        first = not name and column == 0 and len(values) > 2  # without a name the steps decide
        if steps is None:
            if column in clocks or words & CERTAIN:
                raise ValueError(f"its times in column {name or column + 1} do not rise evenly; remove it or resample")
        elif column in clocks or words & (TIMES | CERTAIN) or (first and steps[0] < 1):
            words |= set(re.findall("[a-zµμ]+", units[column].lower())) if units else set()
            seconds = next((SECONDS[word] for word in words if word in SECONDS), 1.0)
            found.add(column)
            shown, rate = name or f"column {column + 1}", rate or to_rate(*steps, seconds)
        elif (words and words <= COUNTERS) or (first and steps[0] == 1):
            found.add(column)
            shown = shown or name or f"column {column + 1}"
    return found, shown, rate


def even_steps(times: np.ndarray) -> tuple[float, float] | None:
    """Return the step of times that rise evenly but for rounding, and its relative error; None for others."""
    if len(times) < 2 or not np.isfinite(times).all():
        return None
    spread = times[-1] - times[0]
    off = np.abs(times - times[0] - spread * np.linspace(0, 1, len(times))).max()
    size = spread / (len(times) - 1)
    return (float(size), float(2 * off / spread)) if size > 2 * off and (np.diff(times) > 0).all() else None


def to_rate(size: float, error: float, seconds: float) -> float:
    """Return the samples per second of a step in units of ``seconds``; an integer if the error allows."""
    rate = 1 / (size * seconds)
    whole = round(rate)
    return float(whole if whole and abs(rate - whole) <= rate * max(error, 1e-6) else f"{rate:.6g}")


def find_labels(values: np.ndarray) -> str | None:
    """Return which column holds integers from 0 on where the others do not, first or last; None if none does."""
    whole = ((values >= 0) & (values == np.round(values))).all(0)
    for name, column, others in (("last", -1, slice(None, -1)), ("first", 0, slice(1, None))):
        if values.shape[1] > 1 and whole[column] and not whole[others].all() and values[:, column].max() < 1000:
            return name
    return None
