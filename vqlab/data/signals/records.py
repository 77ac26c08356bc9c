"""Records of signals, read from NumPy, CSV, WAV and WFDB files.

Shapes: N records of a file, C channels, T samples.
"""

import logging
import warnings
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from einops import EinopsError, rearrange
from scipy.io import wavfile

from vqlab.data.files import reading
from vqlab.data.signals.csv_files import read_csv
from vqlab.data.signals.resampling import at_common_rate
from vqlab.data.signals.wfdb_records import read_wfdb
from vqlab.errors import UserError

EXTENSIONS = (".npy", ".npz", ".csv", ".wav", ".hea")
AXES = {1: "t", 2: "c t", 3: "n c t"}  # of an array, where nothing else is said
RATE = "fs"  # an npz may hold its sample rate under this name, as WFDB calls it
WIDE = 64  # columns of a csv without names above which lines may be records, and columns samples

log = logging.getLogger(__name__)


class MissingChannel(UserError):
    """A record lacks a channel that was asked for."""


@dataclass(frozen=True)
class Record:
    """One recording.

    Args:
        name: What messages call it: its file, with a number where that has several.
        signal: (C, T) float32; NaN where nothing was recorded.
        sample_rate: Samples per second; None if the file does not say.
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
        axes: What the axes of an array are, as in ``n t``: n records, c channels, t samples. None reads one axis as
            ``t``, two as ``c t`` (of a csv: lines and columns, ``t c``), three as ``n c t``.
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
    with reading(file, "cannot be read ({reason}): correct it, or leave it out of --data.path"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of empty files and unknown WAV chunks; what matters is an error here
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
                    raise UserError(f"{file} is no signal file: give --data.path files of {', '.join(EXTENSIONS)}")
        return [pick(record, picks) for record in records]


def pick(record: Record, picks: list[int | str] | None) -> Record:
    """Return the record with the channels ``picks`` only."""
    if picks is None:
        return record
    numbers = find_channels(record.name, record.channels, picks)
    return replace(record, signal=record.signal[numbers], channels=[record.channels[n] for n in numbers])


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
            raise UserError(
                f"{name} has several channels {wanted}: set --data.picks to their numbers, {', '.join(map(str, alike))}"
            )
        numbers += alike
        if not alike:
            raise MissingChannel(
                f"{name} has no channel {wanted}, but {', '.join(channels)}: set --data.picks to some of these, or "
                "leave the record out"
            )
    return numbers


def _read_array(file: Path, array: str | None, axes: str | None) -> list[Record]:
    rate = None
    if file.suffix.lower() == ".npz":
        if not zipfile.is_zipfile(file):
            raise ValueError("no npz archive")
        with np.load(file, allow_pickle=False) as arrays:
            names = [name for name in arrays.files if name != RATE]
            if array is None and len(names) != 1:
                raise UserError(f"{file} holds arrays {', '.join(names)}: choose one with --data.array")
            array = array or names[0]
            if array not in names:
                raise UserError(f"{file} holds no array {array}: set --data.array to one of {', '.join(names)}")
            values = arrays[array]
            rate = float(arrays[RATE]) if RATE in arrays.files else None
    else:
        values = np.load(file, allow_pickle=False)
    if values.dtype.kind not in "iuf":
        raise UserError(f"{file} holds {values.dtype} values: signals are real numbers, give others in --data.path")
    return _by_axes(file, values, axes or AXES.get(values.ndim, ""), rate)


def _by_axes(file: Path, values: np.ndarray, axes: str, rate: float | None) -> list[Record]:
    """Return the records of an array with such axes."""
    names = axes.split()
    if not {"t"} <= set(names) <= set("nct") or len(set(names)) != len(names):
        raise UserError(
            f"{file} has the shape {values.shape}, with axes {axes!r}: set --data.axes to what they are, as in 'n t', "
            "of n records, c channels and t samples"
        )
    try:
        values = rearrange(values, f"{axes} -> {' '.join(a if a in names else '1' for a in 'nct')}")
    except EinopsError as error:
        raise UserError(
            f"{file} has {values.ndim} axes, {values.shape}, and not {axes!r}: set --data.axes to what they are"
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
            f"{file} has {table.values.shape[1]} columns without names: set --data.axes='n t' if each line is a "
            "record, or 't c' if each column is a channel"
        )
    if table.labels:
        log.warning(f"{file} holds whole numbers in its {table.labels} column alone: left out as labels of the lines")
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


def _read_wfdb(file: Path, picks: list[int | str] | None) -> Record:
    found = read_wfdb(file)
    numbers = range(len(found.names)) if picks is None else find_channels(str(file), found.names, picks)
    signal, rate = at_common_rate([found.values[n] for n in numbers], [float(found.rates[n]) for n in numbers])
    return Record(str(file), signal, rate, [found.names[n] for n in numbers])


def _numbers(signal: np.ndarray) -> list[str]:
    return [str(channel) for channel in range(len(signal))]
