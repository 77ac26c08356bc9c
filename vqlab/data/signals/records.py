"""Records of signals, read from NumPy, csv, WAV and WFDB files.

Shapes: N records of a file, C channels, T samples.
"""

import csv
import io
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from einops import EinopsError, rearrange
from scipy.io import wavfile
from scipy.signal import resample_poly

from vqlab.data.files import reading
from vqlab.errors import UserError

EXTENSIONS = (".npy", ".npz", ".csv", ".wav", ".hea")
AXES = {1: "t", 2: "c t", 3: "n c t"}  # default axes of an array with 1, 2 or 3
RATE, CHANNELS = "fs", "channels"  # names of the sample rate, as in WFDB, and of the channels' names in npz files
TIMES = ("time", "elapsed time", "times", "timestamp", "t", "sec", "seconds")  # names of the column of times in csv
# A line of numbers, times and gaps.
NUMBERS = re.compile(r"""(?=.*\d)(?:[\s'",;\d.:+?-]|(?<=[\d.])e(?=[-+\d])|nan|inf|na|n/a|null|none)+""", re.IGNORECASE)
NULL = "~"  # name of a WFDB segment in which nothing was recorded


class MissingChannel(UserError):
    """A record does not have a channel of ``picks``."""


@dataclass(frozen=True)
class Record:
    """One recording."""

    name: str  # in messages: the file, with a number if it contains several records
    signal: np.ndarray  # (C, T) float32; NaN where nothing was recorded
    sample_rate: float | None  # samples per second; None if the file does not state it
    channels: list[str]  # one name per channel; numbers if the file has no names


def read_records(
    file: Path, array: str | None = None, axes: str | None = None, picks: list[int | str] | None = None
) -> list[Record]:
    """Return the records of one file; the arguments are those of :class:`~vqlab.data.signals.files.Signals`.

    UserError if the file cannot be read or its axes differ; MissingChannel if it lacks a channel of ``picks``.
    """
    with reading(file, "cannot be read ({reason}): correct it, or leave it out"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of empty files and unknown WAV chunks; errors are raised
        match file.suffix.lower():
            case ".npy" | ".npz":
                records = _read_array(file, array, axes)
            case ".csv":
                records = _read_csv(file, axes)
            case ".wav":
                records = [_read_wav(file)]
            case ".hea":
                records = [_read_wfdb(file)]
            case _:
                raise UserError(f"{file} must be one of {', '.join(EXTENSIONS)}")
    return records if picks is None else [pick_channels(record, picks) for record in records]


def pick_channels(record: Record, picks: list[int | str]) -> Record:
    """Return the channels ``picks`` of a record; case matters only if names differ by nothing else."""
    numbers: list[int] = []
    for wanted in picks:
        channels = [str(n) for n in range(len(record.channels))] if isinstance(wanted, int) else record.channels
        alike = [n for n, name in enumerate(channels) if name == str(wanted)]
        alike = alike or [n for n, name in enumerate(channels) if name.lower() == str(wanted).lower()]
        if len(alike) > 1:
            raise UserError(f"{record.name} has several channels {wanted}: set picks={alike} or others by number")
        if not alike:
            raise MissingChannel(f"{record.name} has no channel {wanted}, but {', '.join(record.channels)}: set picks")
        numbers += alike
    return replace(record, signal=record.signal[numbers], channels=[record.channels[n] for n in numbers])


def _read_array(file: Path, array: str | None, axes: str | None) -> list[Record]:
    rate, channels, values = None, None, np.load(file, allow_pickle=False)
    if not isinstance(values, np.ndarray):
        with values as arrays:
            channels = _channel_names(arrays)
            names = [name for name in arrays.files if name not in (RATE, channels and CHANNELS)]
            array = names[0] if array is None and len(names) == 1 else array
            if array not in names:
                raise UserError(f"{file} contains the arrays {', '.join(names)}: set array=NAME to one of these")
            values = arrays[array]
            rate = float(arrays[RATE]) if RATE in arrays.files else None
    if values.dtype.kind not in "iuf":
        raise UserError(f"{file} must contain real numbers, got {values.dtype}")
    records = _by_axes(file, values, axes or AXES.get(values.ndim, ""), rate)
    named = channels is not None and len(channels) == len(records[0].channels)
    return [replace(record, channels=channels) for record in records] if named else records  # type: ignore[arg-type]


def _channel_names(arrays: Any) -> list[str] | None:
    """Return the names of the channels if the arrays of an npz file contain them as text."""
    with suppress(ValueError):  # objects, which are not unpickled
        if CHANNELS in arrays.files and arrays[CHANNELS].dtype.kind == "U":
            return arrays[CHANNELS].tolist()
    return None


def _by_axes(file: Path, values: np.ndarray, axes: str, rate: float | None) -> list[Record]:
    """Return the records of an array whose axes are named by letters, as in "n c t"."""
    names = axes.split()
    try:
        if not {"t"} <= set(names) <= set("nct"):
            raise EinopsError
        values = rearrange(values, f"{axes} -> {' '.join(a if a in names else '1' for a in 'nct')}")
    except EinopsError as error:
        raise UserError(
            f"axes must name records n, channels c and samples t, as in 'n t', got {axes!r} for {file} of shape "
            f"{values.shape}"
        ) from error
    numbers = [str(number) for number in range(values.shape[1])]
    records = [Record(f"{file}[{n}]", signal, rate, numbers) for n, signal in enumerate(values.astype(np.float32))]
    return records if "n" in names else [replace(records[0], name=str(file))]


def _read_csv(file: Path, axes: str | None) -> list[Record]:
    import pandas as pd  # takes half a second to import

    content = file.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # as in units with µ or °
    lines = text.split("\n")
    start = next((number for number, line in enumerate(lines) if NUMBERS.fullmatch(line)), len(lines))
    head = [line for line in lines[:start] if line.strip() and line.strip()[0] not in "#%"]
    if start == len(lines) or len(head) > 2 or any(map(str.isdigit, "".join(head[1:]))):
        raise ValueError(f"no line of numbers below {head[0]:.40}" if head else "no line of numbers")
    separator = next((sign for sign in ";\t," if sign in lines[start]), ",")
    quote = "'" if head and "'" in head[0] else '"'
    decimal = "," if separator == ";" and "." not in "".join(lines[start:]) else "."
    options: dict[str, Any] = {"header": None, "skiprows": start, "comment": "#", "na_values": ["-", "?"]}
    options |= {"quotechar": quote, "skipinitialspace": True, "decimal": decimal}
    table = pd.read_csv(io.StringIO(text), sep=separator, **options)
    if head:  # names; in PhysioNet's files a second line contains the units
        (names,) = csv.reader(head[:1], delimiter=separator, quotechar=quote, skipinitialspace=True)
        table.columns = [name.strip() for name in names]
    rate = None
    times = next((name for name in table if str(name).lower() in TIMES), None)
    if times is not None and table.shape[1] > 1:
        parts = [reversed(str(time).split(":")) for time in table.pop(times)]  # seconds, minutes, hours
        seconds = np.array([sum(float(part) * 60**i for i, part in enumerate(time)) for time in parts])
        steps, span = np.diff(seconds), seconds[-1] - seconds[0]
        if not 0 < steps.max() <= 2 * steps.min():  # they may be rounded
            raise ValueError(f"times in column {times} are not equally spaced")
        rate = float(f"{len(steps) / span:.6g}")
        rate = float(round(rate)) if abs(rate - round(rate)) <= rate * np.ptp(steps) / span else rate
    records = _by_axes(file, table.to_numpy(float), axes or "t c", rate)
    names = [str(name) for name in table] if axes in (None, "t c") else records[0].channels
    return [replace(record, channels=names) for record in records]


def _read_wav(file: Path) -> Record:
    rate, values = wavfile.read(file)
    signal = np.atleast_2d(values.T).astype(np.float64)
    if values.dtype.kind in "iu":
        full = 2.0 ** (8 * values.itemsize - 1)
        signal = (
            signal - full * (values.dtype.kind == "u")
        ) / full  # uint8, the only unsigned type, has its zero at 128
    return Record(str(file), signal.astype(np.float32), float(rate), [str(channel) for channel in range(len(signal))])


def _read_wfdb(header: Path) -> Record:
    try:
        import wfdb
    except ImportError as error:
        raise UserError(f"{header} needs the package wfdb: pip install 'vqlab[wfdb]'") from error
    path = str(header.with_suffix(""))
    described = wfdb.rdheader(path)
    if getattr(described, "layout", None) == "fixed" and NULL in described.seg_name:  # wfdb fails at these
        parts = [None if name == NULL else _read_wfdb(header.with_name(f"{name}.hea")) for name in described.seg_name]
        first = next(part for part in parts if part is not None)
        per_frame = round((first.sample_rate or 0) / described.fs)
        gaps = [np.full((len(first.channels), length * per_frame), np.nan, np.float32) for length in described.seg_len]
        signals = [gap if part is None else part.signal for part, gap in zip(parts, gaps, strict=True)]
        return replace(first, name=str(header), signal=np.concatenate(signals, 1))
    record = wfdb.rdrecord(path, smooth_frames=False)
    most = max(record.samps_per_frame)
    frames = zip(record.e_p_signal, record.samps_per_frame, strict=True)
    signal = np.concatenate([change_rate(channel[None], per_frame, most) for channel, per_frame in frames])
    names = [name or str(number) for number, name in enumerate(record.sig_name)]
    return Record(str(header), signal.astype(np.float32), float(record.fs * most), names)


def change_rate(signal: np.ndarray, old: float, new: float) -> np.ndarray:
    """Return (C, T) at ``new`` samples per second, low-pass filtered (polyphase, zero phase); gaps (NaN) stay gaps."""
    if new == old:
        return signal
    ratio = Fraction(new / old).limit_denominator(10_000)
    filled, missing, times = signal.copy(), np.isnan(signal), np.arange(signal.shape[1])
    for channel, gap in zip(filled, missing, strict=True):  # the filter would spread a NaN
        channel[gap] = 0.0 if gap.all() else np.interp(times[gap], times[~gap], channel[~gap])
    # "line" removes the trend first: a signal that does not start or end at 0 would ring there.
    changed = resample_poly(filled, ratio.numerator, ratio.denominator, axis=-1, padtype="line").astype(np.float32)
    new_times = np.arange(changed.shape[1]) * ratio.denominator / ratio.numerator
    for channel, gap in zip(changed, missing, strict=True):
        channel[np.interp(new_times, times, gap) > 0] = np.nan
    return changed


def segments_of(header: Path) -> list[Path]:
    """Return the headers of the segments of a WFDB record, none for a record in one piece."""
    lines = [line for line in header.read_text(errors="replace").splitlines() if line.strip() and line[0] != "#"]
    if not lines or "/" not in lines[0].split()[0]:  # "name/4" has four segments, one in each line
        return []
    return [header.parent / f"{line.split()[0]}.hea" for line in lines[1:]]
