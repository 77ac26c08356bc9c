"""Records of signals, read from NumPy, csv, WAV and WFDB files.

Shapes: N records of a file, C channels, T samples.
"""

import logging
import warnings
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from einops import EinopsError, rearrange
from scipy.io import wavfile

from vqlab.data.files import reading
from vqlab.data.signals.csv_files import read_csv
from vqlab.data.signals.resampling import at_common_rate
from vqlab.errors import UserError

EXTENSIONS = (".npy", ".npz", ".csv", ".wav", ".hea")
AXES = {1: "t", 2: "c t", 3: "n c t"}  # default axes of an array with 1, 2 or 3
RATE = "fs"  # an npz may hold its sample rate under this name, as WFDB calls it
WIDE = 64  # columns of a csv without names above which lines may be records, and columns samples
NULL = "~"  # the name of a WFDB segment in which nothing was recorded

log = logging.getLogger(__name__)


class MissingChannel(UserError):
    """A record does not have a channel of ``picks``."""


@dataclass(frozen=True)
class Record:
    """One recording.

    Args:
        name: Its name in messages: the file, with a number where that has several.
        signal: (C, T) float32; NaN where nothing was recorded.
        sample_rate: Samples per second; None if the file does not state it.
        channels: One name per channel; numbers where the file has no names.
        time: Name of the column that was read as times or sample numbers, not as a channel; None if there is none.
    """

    name: str
    signal: np.ndarray
    sample_rate: float | None
    channels: list[str]
    time: str | None = None


def read_records(
    file: Path, array: str | None = None, axes: str | None = None, picks: list[int | str] | None = None
) -> list[Record]:
    """Return the records of one file.

    Args:
        file: ``.npy``, ``.npz``, ``.csv`` (see :func:`~vqlab.data.signals.csv_files.read_csv`), ``.wav`` (integers are
            scaled to -1 .. 1), or the header ``.hea`` of a WFDB record (in its physical units, all channels at the
            highest rate among them).
        array: Name of the array in an npz; None takes the only one.
        axes: Axes of an array, as in ``n t``: n records, c channels, t samples. Default: ``t`` for one axis, ``c t``
            for two (lines and columns of a csv: ``t c``), ``n c t`` for three.
        picks: Channels to take, by name or number; None takes all.

    Raises:
        MissingChannel: If it has no such channel.
        UserError: If the file cannot be read, holds no real numbers, or its axes are others.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "both.npy"
        >>> np.save(file, np.zeros((2, 100), dtype=np.int16))
        >>> [record.signal.shape for record in read_records(file)]
        [(2, 100)]
        >>> [record.signal.shape for record in read_records(file, axes="n t")]
        [(1, 100), (1, 100)]
    """
    with reading(file, "cannot be read ({reason}): correct it, or leave it out"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of empty files and unknown WAV chunks; errors are raised
            match file.suffix.lower():
                case ".npy" | ".npz":
                    records = _read_array(file, array, axes)
                case ".csv":
                    records = _read_csv(file, axes)
                case ".wav":
                    records = [_read_wav(file)]
                case ".hea":
                    return [_read_wfdb(file, picks)]
                case _:
                    raise UserError(f"{file} must be one of {', '.join(EXTENSIONS)}")
        if picks is None:
            return records
        chosen = [find_channels(record.name, record.channels, picks) for record in records]
        return [
            replace(record, signal=record.signal[numbers], channels=[record.channels[n] for n in numbers])
            for record, numbers in zip(records, chosen, strict=True)
        ]


def find_channels(name: str, channels: list[str], picks: list[int | str]) -> list[int]:
    """Return the numbers of the channels ``picks`` of a record; capital letters matter only where names differ by them.

    Raises:
        MissingChannel: If it has no such channel.
        UserError: If it has several of one name.

    Example:
        >>> find_channels("a.csv", ["II", "V5", "v5"], ["v5", "ii", 1])
        [2, 0, 1]
    """
    numbers = []
    for wanted in picks:
        if isinstance(wanted, int):
            alike = [wanted] if 0 <= wanted < len(channels) else []
        else:
            alike = [n for n, channel in enumerate(channels) if channel == wanted]
            alike = alike or [n for n, channel in enumerate(channels) if channel.lower() == wanted.lower()]
        if len(alike) > 1:
            raise UserError(f"{name} has several channels {wanted}: set picks={alike} or others by number")
        if not alike:
            raise MissingChannel(f"{name} has no channel {wanted}, but {', '.join(channels)}: set picks=[...] to these")
        numbers += alike
    return numbers


def _read_array(file: Path, array: str | None, axes: str | None) -> list[Record]:
    rate = None
    if file.suffix.lower() == ".npz":
        if not zipfile.is_zipfile(file):
            raise ValueError("no npz archive")
        with np.load(file, allow_pickle=False) as arrays:
            names = [name for name in arrays.files if name != RATE]
            array = names[0] if array is None and len(names) == 1 else array
            if array not in names:
                raise UserError(f"{file} holds the arrays {', '.join(names)}: set array=NAME to one of these")
            values = arrays[array]
            rate = float(arrays[RATE]) if RATE in arrays.files else None
    else:
        values = np.load(file, allow_pickle=False)
    if values.dtype.kind not in "iuf":
        raise UserError(f"{file} must hold real numbers, but holds {values.dtype}")
    return _by_axes(file, values, axes or AXES.get(values.ndim, ""), rate)


def _by_axes(file: Path, values: np.ndarray, axes: str, rate: float | None) -> list[Record]:
    """Return the records of an array with such axes."""
    names = axes.split()
    try:
        if not {"t"} <= set(names) <= set("nct"):
            raise EinopsError
        values = rearrange(values, f"{axes} -> {' '.join(a if a in names else '1' for a in 'nct')}")
    except EinopsError as error:
        raise UserError(
            f"axes must name those of records n, channels c and samples t, as in 'n t', got {axes!r} for {file} of the "
            f"shape {values.shape}"
        ) from error
    several = "n" in names
    return [
        Record(f"{file}[{n}]" if several else str(file), signal.astype(np.float32), rate, _numbers(signal))
        for n, signal in enumerate(values)
    ]


def _read_csv(file: Path, axes: str | None) -> list[Record]:
    table = read_csv(file.read_bytes(), records=axes not in (None, "t c"))
    if axes is None and table.names is None and table.values.shape[1] > WIDE:
        raise UserError(
            f"{file} has {table.values.shape[1]} columns without names: set axes='n t' if each line is a record, or "
            "axes='t c' if each column is a channel"
        )
    if table.labels:
        log.warning(f"{file} holds integers in its {table.labels} column alone: left out as labels of the lines")
    records = _by_axes(file, table.values, axes or "t c", table.sample_rate)
    named = table.names if axes in (None, "t c") else None
    return [replace(record, channels=named or record.channels, time=table.time) for record in records]


def _read_wav(file: Path) -> Record:
    rate, values = wavfile.read(file)
    if values.dtype == np.uint8:  # the only unsigned kind; 128 is silence
        signal = (values.astype(np.float32) - 128) / 128
    elif values.dtype.kind == "i":
        signal = (values / (np.iinfo(values.dtype).max + 1.0)).astype(np.float32)
    else:
        signal = values.astype(np.float32)
    signal = signal[None] if signal.ndim == 1 else signal.T
    return Record(str(file), signal, float(rate), _numbers(signal))


def _numbers(signal: np.ndarray) -> list[str]:
    return [str(channel) for channel in range(len(signal))]


def segments_of(header: Path) -> list[Path]:
    """Return the headers of the segments of a WFDB record; none if it has no segments."""
    lines = [line for line in header.read_text(errors="replace").splitlines() if line.strip() and line[0] != "#"]
    if not lines or "/" not in lines[0].split()[0]:  # "name/4" has four segments, one in each line
        return []
    return [header.parent / f"{line.split()[0]}.hea" for line in lines[1:]]


def _read_wfdb(header: Path, picks: list[int | str] | None) -> Record:
    """Return the channels ``picks`` of a WFDB record, at the highest rate among them."""
    try:
        import wfdb
    except ImportError as error:
        raise UserError(f"{header} needs the package wfdb: pip install 'vqlab[wfdb]'") from error
    names, rates, values = _wfdb_channels(wfdb, header)
    numbers = range(len(names)) if picks is None else find_channels(str(header), names, picks)
    signal, rate = at_common_rate([values[n] for n in numbers], [float(rates[n]) for n in numbers])
    return Record(str(header), signal, rate, [names[n] for n in numbers])


def _wfdb_channels(wfdb: Any, header: Path) -> tuple[list[str], list[float], list[np.ndarray]]:
    """Return names, rates and values of all channels, each at its own rate, NaN where nothing was recorded."""
    for segment in segments_of(header):
        if segment.is_file() and segments_of(segment):
            raise ValueError(f"its segment {segment.stem} is itself a record in segments")
    record = str(header.with_suffix(""))
    described = wfdb.rdheader(record)
    if getattr(described, "layout", None) != "fixed" or NULL not in described.seg_name:
        read = wfdb.rdrecord(record, smooth_frames=False)
        names = [name or str(number) for number, name in enumerate(read.sig_name)]
        return names, [read.fs * frame for frame in read.samps_per_frame], read.e_p_signal
    # wfdb cannot join segments of the same channels if some are null ones.
    segments = {name: _wfdb_channels(wfdb, header.with_name(f"{name}.hea")) for name in {*described.seg_name} - {NULL}}
    if not segments:
        raise ValueError("all its segments are null")
    names, rates, _ = next(iter(segments.values()))
    parts = [
        [
            np.full(round(length * rate / described.fs), np.nan) if name == NULL else segments[name][2][channel]
            for name, length in zip(described.seg_name, described.seg_len, strict=True)
        ]
        for channel, rate in enumerate(rates)
    ]
    return names, rates, [np.concatenate(part) for part in parts]
