"""Records of signals, read from NumPy, csv, WAV and WFDB files.

Shapes: N records of a file, C channels, T samples.
"""

import warnings
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from einops import EinopsError, rearrange
from scipy.io import wavfile

from vqlab.data.files import reading
from vqlab.errors import UserError

EXTENSIONS = (".npy", ".npz", ".csv", ".wav", ".hea")
AXES = {1: "t", 2: "c t", 3: "n c t"}  # default axes of an array with 1, 2 or 3
RATE = "fs"  # an npz may hold its sample rate under this name, as WFDB calls it
TIMES = ("time", "times", "timestamp", "t", "sec", "seconds")  # names of a csv's column of times


class MissingChannel(UserError):
    """A record does not have a channel of ``picks``."""


@dataclass(frozen=True)
class Record:
    """One recording."""

    name: str  # in messages: the file, with a number where that has several
    signal: np.ndarray  # (C, T) float32; NaN where nothing was recorded
    sample_rate: float | None  # samples per second; None if the file does not state it
    channels: list[str]  # one name per channel; numbers where the file has no names


def read_records(
    file: Path, array: str | None = None, axes: str | None = None, picks: list[int | str] | None = None
) -> list[Record]:
    """Return the records of one file.

    Args:
        file: ``.npy``, ``.npz``, ``.csv`` (a sample a line; a first line may name the channels; a column ``time`` in
            seconds gives the rate and is no channel), ``.wav`` (integers are scaled to -1 .. 1), or the header ``.hea``
            of a WFDB record (in its physical units; channels of several samples a frame are averaged to one).
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
        >>> [record.signal.shape for record in read_records(file, axes="n t")]
        [(1, 100), (1, 100)]
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
    return records if picks is None else [_pick(record, picks) for record in records]


def _pick(record: Record, picks: list[int | str]) -> Record:
    """Return the channels ``picks`` of a record; capital letters matter only where names differ by them."""
    numbers: list[int] = []
    for wanted in picks:
        channels = [str(n) for n in range(len(record.channels))] if isinstance(wanted, int) else record.channels
        alike = [n for n, name in enumerate(channels) if name == str(wanted)]
        alike = alike or [n for n, name in enumerate(channels) if name.lower() == str(wanted).lower()]
        if len(alike) > 1:
            raise UserError(f"{record.name} has several channels {wanted}: set picks={alike} or others by number")
        if not alike:
            names = ", ".join(record.channels)
            raise MissingChannel(f"{record.name} has no channel {wanted}, but {names}: set picks=[...] to these")
        numbers += alike
    return replace(record, signal=record.signal[numbers], channels=[record.channels[n] for n in numbers])


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
    numbers = [str(number) for number in range(values.shape[1])]
    records = [Record(f"{file}[{n}]", signal, rate, numbers) for n, signal in enumerate(values.astype(np.float32))]
    return records if "n" in names else [replace(records[0], name=str(file))]


def _read_csv(file: Path, axes: str | None) -> list[Record]:
    import pandas as pd  # takes half a second to import

    with file.open(encoding="utf-8-sig") as lines:
        first = lines.readline()
    separator = max(",;\t", key=first.count)
    has_names = pd.to_numeric(pd.Series(first.strip().split(separator)), errors="coerce").isna().any()
    table = pd.read_csv(
        file, sep=separator, header=0 if has_names else None, skipinitialspace=True, encoding="utf-8-sig"
    )
    rate = None
    times = next((name for name in table if str(name).strip().lower() in TIMES), None)
    if times is not None and table.shape[1] > 1:
        seconds = table.pop(times).to_numpy(float)
        steps = np.diff(seconds)
        if not 0 < steps.max() <= 2 * steps.min():  # they may be rounded
            raise ValueError(f"its times in column {times} do not rise evenly")
        rate = float(f"{(len(seconds) - 1) / (seconds[-1] - seconds[0]):.6g}")
    records = _by_axes(file, table.to_numpy(float), axes or "t c", rate)
    names = [str(name).strip() for name in table] if axes in (None, "t c") else records[0].channels
    return [replace(record, channels=names) for record in records]


def _read_wav(file: Path) -> Record:
    rate, values = wavfile.read(file)
    if values.dtype == np.uint8:  # the only unsigned kind; 128 is silence
        signal = (values.astype(np.float32) - 128) / 128
    elif values.dtype.kind == "i":
        signal = (values / (np.iinfo(values.dtype).max + 1.0)).astype(np.float32)
    else:
        signal = values.astype(np.float32)
    signal = np.atleast_2d(signal.T)
    return Record(str(file), signal, float(rate), [str(channel) for channel in range(len(signal))])


def _read_wfdb(header: Path) -> Record:
    try:
        import wfdb
    except ImportError as error:
        raise UserError(f"{header} needs the package wfdb: pip install 'vqlab[wfdb]'") from error
    record = wfdb.rdrecord(str(header.with_suffix("")))
    names = [name or str(number) for number, name in enumerate(record.sig_name)]
    return Record(str(header), record.p_signal.T.astype(np.float32), float(record.fs), names)


def segments_of(header: Path) -> list[Path]:
    """Return the headers of the segments of a WFDB record; none if it has no segments."""
    lines = [line for line in header.read_text(errors="replace").splitlines() if line.strip() and line[0] != "#"]
    if not lines or "/" not in lines[0].split()[0]:  # "name/4" has four segments, one in each line
        return []
    return [header.parent / f"{line.split()[0]}.hea" for line in lines[1:]]
