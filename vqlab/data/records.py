"""Records of signals, read from NumPy, CSV, WAV and WFDB files.

Shapes: N records of a file, C channels, T samples.
"""

import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from einops import EinopsError, rearrange
from scipy.io import wavfile

from vqlab.errors import UserError, read_error

EXTENSIONS = (".npy", ".npz", ".csv", ".wav", ".hea")
AXES = {1: "t", 2: "c t", 3: "n c t"}  # of an array, where nothing else is said
RATE = "fs"  # an npz may hold its sample rate under this name, as WFDB calls it


@dataclass(frozen=True)
class Record:
    """One recording.

    Args:
        name: What messages call it: its file, with a number where that has several.
        signal: (C, T) float32; NaN where nothing was recorded.
        sample_rate: Samples per second; None if the file does not say.
        channels: One name per channel; numbers where the file has no names.
    """

    name: str
    signal: np.ndarray
    sample_rate: float | None
    channels: list[str]


def read_records(file: Path, array: str | None = None, axes: str | None = None) -> list[Record]:
    """Return the records of one file.

    Args:
        file: ``.npy``, ``.npz``, ``.csv`` (one column per channel, with or without names above), ``.wav`` (integers are
            scaled to -1 .. 1), or the header ``.hea`` of a WFDB record (in its physical units).
        array: Name of the array in an npz; None takes the only one.
        axes: What the axes of an array are, as in ``n t``: n records, c channels, t samples. None reads one axis as
            ``t``, two as ``c t``, three as ``n c t``.

    Raises:
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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of empty files and unknown WAV chunks; what matters is an error here
            match file.suffix.lower():
                case ".npy" | ".npz":
                    return _read_array(file, array, axes)
                case ".csv":
                    return [_read_csv(file)]
                case ".wav":
                    return [_read_wav(file)]
                case ".hea":
                    return [_read_wfdb(file)]
    except UserError:
        raise
    except Exception as error:  # damaged files make the readers raise many things
        reason = " ".join(str(error).split()) or type(error).__name__
        message = f"{file} cannot be read ({reason}): mend it, or leave it out of --data.path"
        raise read_error(file, error, message) from error
    raise UserError(f"{file} is no signal file: give --data.path files of {', '.join(EXTENSIONS)}")


def segments_of(headers: list[Path]) -> set[Path]:
    """Return which of the WFDB headers are but parts of the records that others of them describe."""
    parts = set()
    for header in headers:
        lines = [line for line in header.read_text(errors="replace").splitlines() if line and line[0] != "#"]
        if lines and "/" in lines[0].split()[0]:  # "name/4" has four segments, one in each line
            parts |= {header.with_name(f"{line.split()[0]}.hea") for line in lines[1:]}
    return parts


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
    axes = axes or AXES.get(values.ndim, "")
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


def _read_csv(file: Path) -> Record:
    with file.open(encoding="utf-8-sig") as lines:
        first = lines.readline().strip()
    if not first:
        raise ValueError("its first line is empty")
    separator = next((sign for sign in ",;\t" if sign in first), None)
    names = [name.strip().strip("\"'") for name in first.split(separator)]
    header = not all(_is_number(name) for name in names)
    values = np.loadtxt(
        file,
        dtype=np.float32,
        delimiter=separator,
        skiprows=int(header),
        ndmin=2,
        encoding="utf-8-sig",
        converters=lambda field: float(field.strip() or "nan"),  # an empty field is a gap
    )
    if not values.size:
        raise ValueError("no numbers")
    return Record(str(file), values.T, None, names if header else _numbers(values.T))


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


def _read_wfdb(file: Path) -> Record:
    try:
        import wfdb
    except ImportError as error:
        raise UserError(f"{file} is a WFDB record, which needs the package wfdb: pip install 'vqlab[wfdb]'") from error
    record = wfdb.rdrecord(str(file.with_suffix("")))
    return Record(str(file), record.p_signal.T.astype(np.float32), float(record.fs), list(record.sig_name))


def _numbers(signal: np.ndarray) -> list[str]:
    return [str(channel) for channel in range(len(signal))]


def _is_number(field: str) -> bool:
    try:
        float(field or "nan")
    except ValueError:
        return False
    return True
