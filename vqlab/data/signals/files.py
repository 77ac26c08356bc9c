"""Signals from files of one's own."""

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.signal import resample_poly
from torch import Tensor

from vqlab.data.datamodule import ValFraction, check_fractions, draw_splits
from vqlab.data.files import counted, reading
from vqlab.data.signals.base import SignalDataModule, Windows
from vqlab.data.signals.records import EXTENSIONS, MissingChannel, Record, read_records, segments_of
from vqlab.data.split_folders import group_by_split, name_splits, split_folders
from vqlab.errors import UserError
from vqlab.validation import Positive, Probability

log = logging.getLogger(__name__)


class Signals(SignalDataModule):
    """Windows of the records in npy, npz, csv, wav or WFDB files.

    Records are split, not windows: by the folders ``path/train``, ``path/val`` and ``path/test``, also under other
    usual names, or by files named such as ``x_train.npy``; missing splits are drawn by ``seed``. No window spans a gap,
    where a channel is NaN. Records with a channel that is constant, infinite or nowhere a number are left out, as are
    those without a channel of ``picks``. All are held in memory. In csv files a column ``time`` gives the rate; WAV
    integers are scaled to -1 .. 1; channels of a WFDB record are brought to the highest rate among them.

    Args:
        path: A folder with files at any depth, a file, or a list of both; of a WFDB record the header ``.hea``.
        sample_rate: Samples per second of npy files, of npz without ``fs`` and of csv without times. Default: 1.
        resample: Samples per second to bring all records to, low-pass filtered. Default: their own.
        picks: Channels to take, by name or number, in this order. Default: all.
        array: Name of the array in npz files with more than one.
        axes: Axes of arrays, of n records, c channels, t samples. Default: ``t``, ``c t`` or ``n c t``; of csv ``t c``.
        val_fraction: Fraction of the records for validation, where there are no folders.
        test_fraction: Fraction of the records for test, where there are no folders; 0 keeps none.
        **common: Arguments of :class:`~vqlab.data.signals.base.SignalDataModule`.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for number in range(10):
        ...     np.save(folder / f"{number}.npy", np.random.default_rng(number).standard_normal((2, 3000)))
        >>> data = Signals(str(folder), sample_rate=250, resample=125, length=500, batch_size=4)
        >>> data.channels, data.sample_rate, data.train_size
        (2, 125.0, 24)
    """

    test_hint = "set test_fraction=0.1, add a folder `test`, or use `vqlab validate`"

    def __init__(
        self,
        path: str | list[str],
        sample_rate: Positive | None = None,
        resample: Positive | None = None,
        picks: list[int | str] | None = None,
        array: str | None = None,
        axes: str | None = None,
        val_fraction: ValFraction = 0.1,
        test_fraction: Probability = 0.1,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        check_fractions(val_fraction, test_fraction, "records")
        files = find_files([path] if isinstance(path, str) else path)
        records = read_splits(files, sample_rate, lambda file: read_records(file, array, axes, picks))
        first = check_same([record for group in records.values() for record in group], resample)
        self.path, self.channel_names, self.channels = path, first.channels, len(first.channels)
        self.sample_rate = float(resample or first.sample_rate or 1)
        stretches = self._cut(records)
        self._every = [stretch for group in stretches.values() for record in group for stretch in record]
        if "val" not in stretches:
            known = "train" in stretches
            whole = stretches.pop("train" if known else "")
            hint = ": give more, or set test_fraction=0"
            drawn = draw_splits(len(whole), val_fraction, 0 if known else test_fraction, self.seed, "record", hint)
            stretches |= {split: [whole[i] for i in rows.tolist()] for split, rows in drawn.items()}
        self._splits = {
            split: Windows([stretch for record in group for stretch in record], self.length, self.stride)
            for split, group in stretches.items()
        }
        self.train_size = len(self._splits["train"])

    def load_all(self) -> Windows:
        """Return the windows of all records in the order of the files."""
        return Windows(self._every, self.length, self.stride)

    def option(self, name: str, value: Any) -> str:
        """Rate and channels of files are set by ``resample`` and ``picks``."""
        if name == "channels":
            named = set(value) <= set(self.channel_names)
            return f"picks=[{','.join(value)}]" if named else "path to records of these channels"
        return super().option({"sample_rate": "resample"}.get(name, name), value)

    def _cut(self, records: dict[str, list[Record]]) -> dict[str, list[list[Tensor]]]:
        """Return for each split and record the stretches between gaps that hold a window, at ``sample_rate``."""
        gaps, short = 0, [0]
        whole: dict[str, list[list[Tensor]]] = {}
        for split, group in records.items():
            whole[split] = []
            for record in group:
                runs = finite_runs(record.signal)
                gaps += record.signal.shape[1] - sum(end - start for start, end in runs)
                rate = record.sample_rate or self.sample_rate
                parts = [change_rate(record.signal[:, start:end], rate, self.sample_rate) for start, end in runs]
                short += [part.shape[1] for part in parts if part.shape[1] < self.length]
                if long := [torch.from_numpy(part) for part in parts if part.shape[1] >= self.length]:
                    whole[split].append(long)
            if not whole[split]:
                where = f" of {split}" if split else ""
                raise UserError(
                    f"length must fit into a record{where} without a gap, got {self.length}: set "
                    f"length={max(2, *short)} or smaller"
                )
        if gaps or len(short) > 1:
            log.warning(
                f"left out {gaps:,} samples where a channel is NaN, and {len(short) - 1:,} record(s) or stretches "
                "between gaps that are shorter than a window"
            )
        return whole


def find_files(paths: list[str]) -> dict[str, list[Path]]:
    """Return the files of each split; of the split "" where neither folders nor names of files tell the splits."""
    files: dict[str, list[Path]] = defaultdict(list)
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"path must name a folder or files, but {path} is not a folder or a file")
        for split, group in (_find_in(path) if path.is_dir() else {"": [path]}).items():
            files[split] += group
    if not files or ("" in files and len(files) > 1):
        raise UserError(f"path must name folders that all have the splits, or none of them, got {', '.join(paths)}")
    return dict(files)


def _find_in(root: Path) -> dict[str, list[Path]]:
    """Return the files of each split of a folder, without WFDB headers that are segments of others."""
    files = {}
    for split, group in split_folders(root, EXTENSIONS, "signals")[1].items():
        segments: set[Path] = set()
        for file in group:
            if file.suffix.lower() == ".hea":
                with reading(file, "cannot be read ({reason}): leave it out"):
                    segments.update(segments_of(file))
        files[split] = [file for file in group if file not in segments]
    names = [Path(file.relative_to(root).parts[0]).stem for file in files.get("", ())]
    if {"train"} < set(name_splits(names).values()):
        return {split: [files[""][i] for i in group] for split, group in group_by_split(names, root).items()}
    return files


def read_splits(
    files: dict[str, list[Path]], sample_rate: float | None, read: Callable[[Path], list[Record]]
) -> dict[str, list[Record]]:
    """Return the usable records of each split, with ``sample_rate`` where the file does not state one."""
    records: dict[str, list[Record]] = {split: [] for split in files}
    faults: list[str] = []
    sources = [(split, file) for split, group in files.items() for file in group]
    for split, file in counted(sources, len(sources), "read", "files"):
        try:
            found = [(record, find_fault(record)) for record in read(file)]
        except MissingChannel as error:
            faults.append(str(error))
            continue
        records[split] += [record for record, fault in found if fault is None]
        faults += [f"{record.name} is {fault}" for record, fault in found if fault is not None]
    some = ", ".join(fault.partition(": ")[0] for fault in faults[:3]) + (", ..." if len(faults) > 3 else "")
    for split, group in records.items():
        if not group:
            raise UserError(f"no record{f' of {split}' if split else ''} can be used: {some or 'the files are empty'}")
    every = [record for group in records.values() for record in group]
    if faults:
        log.warning(f"left out {len(faults):,} of {len(every) + len(faults):,} records: {some}")
    other = next((record for record in every if record.sample_rate not in (None, sample_rate)), None)
    if sample_rate is not None and other and all(record.sample_rate for record in every):
        raise UserError(
            f"sample_rate must be that of the files, got {sample_rate:g}, but {other.name} has {other.sample_rate:g} "
            f"samples per second: leave it out, or set resample={sample_rate:g} to change it"
        )
    return {
        split: [replace(record, sample_rate=record.sample_rate or sample_rate) for record in group]
        for split, group in records.items()
    }


def find_fault(record: Record) -> str | None:
    """Return what is wrong where a channel is infinite somewhere, or constant, or never recorded; else None."""
    for name, channel in zip(record.channels, record.signal, strict=True):
        finite = channel[~np.isnan(channel)]
        if np.isinf(finite).any():
            return f"infinite in channel {name} at sample {int(np.isinf(channel).argmax())}"
        if finite.size == 0 or np.ptp(finite) == 0:
            return f"{'constant' if finite.size else 'nowhere a number'} in channel {name}"
    return None


def check_same(records: list[Record], resample: float | None) -> Record:
    """Return the first record; UserError if others differ in channels or, without ``resample``, in rate."""
    first, renamed = records[0], None
    rate = first.sample_rate or 1
    for record in records:
        names, its = ", ".join(record.channels), record.sample_rate or 1
        shown = f"{', '.join(first.channels)} in {first.name}, {names} in {record.name}"
        if len(record.channels) != len(first.channels):
            raise UserError(
                f"records differ in channels: {first.name} has {len(first.channels)} ({', '.join(first.channels)}), "
                f"{record.name} {len(record.channels)} ({names}): set picks=[...] to common ones"
            )
        if record.sample_rate is None and resample is not None:
            raise UserError(f"sample_rate must be given to resample {record.name}, which does not state it")
        if its != rate and resample is None:
            raise UserError(
                f"records differ in samples per second: {first.name} has {rate:g}, {record.name} {its:g}: set "
                f"resample={min(rate, its):g}"
            )
        if names.lower() != ", ".join(first.channels).lower():
            renamed = renamed or shown
    if renamed:
        log.warning(f"channels have other names in other records: {renamed}: choose by name with picks")
    return first


def finite_runs(signal: np.ndarray) -> list[tuple[int, int]]:
    """Return start and end of each stretch of (C, T) in which no channel is NaN."""
    known = np.concatenate([[False], ~np.isnan(signal).any(0), [False]])
    edges = np.flatnonzero(known[1:] != known[:-1])
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def change_rate(signal: np.ndarray, old: float, new: float) -> np.ndarray:
    """Return (C, T) at ``new`` samples per second, low-pass filtered against aliases (polyphase, zero phase)."""
    if new == old:
        return signal
    ratio = Fraction(new / old).limit_denominator(10_000)
    if not ratio:
        raise UserError(f"resample must be higher for records of {old:g} samples per second, got {new:g}")
    # "line" takes a trend out first: a signal that does not start or end at 0 would ring there.
    return resample_poly(signal, ratio.numerator, ratio.denominator, axis=-1, padtype="line").astype(np.float32)
