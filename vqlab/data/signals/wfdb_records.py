"""Signals of WFDB records: header, data files and segments, as PhysioNet publishes them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vqlab.errors import UserError

NULL = "~"  # the name of a segment in which nothing was recorded


class Channels(NamedTuple):
    """The channels of a record, each at its own rate, in samples per second; NaN where nothing was recorded."""

    names: list[str]
    rates: list[float]
    values: list[np.ndarray]


def segments_of(header: Path) -> list[Path]:
    """Return the headers of the segments of a record; none if it has no segments."""
    lines = [line for line in header.read_text(errors="replace").splitlines() if line.strip() and line[0] != "#"]
    if not lines or "/" not in lines[0].split()[0]:  # "name/4" has four segments, one in each line
        return []
    return [header.parent / f"{line.split()[0]}.hea" for line in lines[1:]]


def read_wfdb(header: Path) -> Channels:
    """Return the channels of a record in physical units.

    Raises:
        UserError: If the package wfdb is missing.
        Exception: What wfdb raises for damaged files.
    """
    try:
        import wfdb
    except ImportError as error:
        raise UserError(
            f"{header} is a WFDB record, which needs the package wfdb: pip install 'vqlab[wfdb]'"
        ) from error
    for segment in segments_of(header):
        if segment.is_file() and segments_of(segment):
            raise ValueError(f"its segment {segment.stem} is itself a record in segments")
    record = str(header.with_suffix(""))
    described = wfdb.rdheader(record)
    if getattr(described, "layout", None) == "fixed" and NULL in described.seg_name:
        segments = {name: read_wfdb(header.parent / f"{name}.hea") for name in described.seg_name if name != NULL}
        return _join(described, segments)
    read = wfdb.rdrecord(record, smooth_frames=False)
    return Channels(list(read.sig_name), [read.fs * frame for frame in read.samps_per_frame], read.e_p_signal)


def _join(described: Any, segments: dict[str, Channels]) -> Channels:
    """Return segments of the same channels in a row, NaN where a segment is a null one, which wfdb cannot join."""
    if not segments:
        raise ValueError("all its segments are null")
    names, rates, _ = next(iter(segments.values()))
    values = []
    for channel, rate in enumerate(rates):
        parts = [
            np.full(round(length * rate / described.fs), np.nan) if name == NULL else segments[name].values[channel]
            for name, length in zip(described.seg_name, described.seg_len, strict=True)
        ]
        values.append(np.concatenate(parts))
    return Channels(names, rates, values)
