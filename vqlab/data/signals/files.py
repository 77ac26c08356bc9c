"""Signals from files of one's own."""

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqlab.data.datamodule import ValFraction, check_fractions, draw_splits
from vqlab.data.files import counted, reading
from vqlab.data.signals.base import SignalDataModule, Windows
from vqlab.data.signals.records import EXTENSIONS, MissingChannel, Record, read_records, segments_of
from vqlab.data.signals.resampling import change_rate, finite_runs
from vqlab.data.split_folders import group_by_split, name_splits, split_folders
from vqlab.errors import UserError
from vqlab.validation import Positive, Probability

log = logging.getLogger(__name__)


class Signals(SignalDataModule):
    """Windows of the records in npy, npz, csv, wav or WFDB files.

    Records are split, not windows, so that no person or place is in two splits: by the folders ``path/train``,
    ``path/val`` and ``path/test``, also under other usual names (``training``, ``valid``, ``validation``, ``dev``,
    ``testing``, ``eval``, capital letters or not), or by files with names such as ``x_train.npy``. Without ``path/val``
    the validation records are drawn from those of ``path/train`` by ``seed``, and without such names all splits are
    drawn. Where a channel is NaN there is a gap: no window spans one. Records with a channel that is constant, infinite
    or nowhere a number are left out, as are those without a channel of ``picks``; one line counts what is left out.
    All records are held in memory, 4 bytes a sample.

    Args:
        path: A folder with files at any depth, a file, or a list of both. A WFDB record may also be named by its data
            file or without an extension.
        sample_rate: Samples per second of npy files, of npz without ``fs`` and of csv without times. Default: 1. Other
            files state it.
        resample: Samples per second to bring all records to, low-pass filtered. Default: their own. The channels of a
            WFDB record come to the highest rate of those taken.
        picks: Channels to take, by name or number, in this order. Default: all.
        array: Name of the array in npz files with more than one.
        axes: Axes of arrays, of n records, c channels, t samples, as in ``n t``. Default: ``t`` for one axis, ``c t``
            for two, ``n c t`` for three, and ``t c`` for the lines and columns of csv files.
        val_fraction: Fraction of the records for validation, where there are no folders.
        test_fraction: Fraction of the records for test, where there are no folders; 0 keeps none.
        **common: Arguments of :class:`~vqlab.data.signals.base.SignalDataModule`.

    Raises:
        UserError: If files cannot be read, differ in rate or channels, are too few to split, or no record is usable
            and as long as a window.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for number in range(10):
        ...     np.save(folder / f"{number}.npy", np.random.default_rng(number).standard_normal((2, 3000)))
        >>> data = Signals(str(folder), sample_rate=250, resample=125, length=500, batch_size=4)
        >>> data.channels, data.sample_rate, data.train_size
        (2, 125.0, 24)
        >>> tuple(next(iter(data.train_dataloader()))["signal"].shape)
        (4, 2, 500)
    """

    test_mend = "set test_fraction=0.1, add a folder `test`, or use `vqlab validate`"

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
        every = [record for group in records.values() for record in group]
        check_same(every, resample)
        self.path, self.channel_names, self.channels = path, every[0].channels, len(every[0].channels)
        self.sample_rate = float(resample or every[0].sample_rate or 1)
        stretches = self._cut(records)
        self._every = [stretch for group in stretches.values() for record in group for stretch in record]
        if "" in stretches:
            stretches |= draw_records(stretches.pop(""), val_fraction, test_fraction, self.seed)
        elif "val" not in stretches:
            stretches |= draw_records(stretches["train"], val_fraction, 0, self.seed)
        self._windows = {
            split: Windows([stretch for record in group for stretch in record], self.length, self.stride)
            for split, group in stretches.items()
        }
        self.train_size = len(self._windows["train"])

    def load_train_val(self) -> tuple[Windows, Windows]:
        """Return the training and the validation windows."""
        return self._windows["train"], self._windows["val"]

    def load_test(self) -> Windows | None:
        """Return the test windows, if records were kept for test."""
        return self._windows.get("test")

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
                longest = max(2, *short)
                raise UserError(
                    f"length must fit into a record{f' of {split}' if split else ''} without a gap, got {self.length}: "
                    f"set length={longest} or smaller"
                )
        if gaps:
            log.warning(f"left out {gaps:,} samples where a channel is NaN")
        if len(short) > 1:
            log.warning(
                f"left out {len(short) - 1:,} record(s) or stretches between gaps that are shorter than a window"
            )
        return whole


def find_files(paths: list[str]) -> dict[str, list[Path]]:
    """Return the files of each split; of the split "" where neither folders nor names of files tell the splits.

    Raises:
        UserError: If there is no such file or folder, a folder without signals, or some folders are splits and others
            are not.
    """
    if not paths:
        raise UserError("path must name a folder or files, got an empty list")
    files: dict[str, list[Path]] = defaultdict(list)
    for path in map(Path, paths):
        for split, group in (_find_in(path) if path.is_dir() else {"": [_find_file(path)]}).items():
            files[split] += group
    if "" in files and len(files) > 1:
        raise UserError(f"path must name folders that all have the splits, or none of them, got {', '.join(paths)}")
    return dict(files)


def _find_in(root: Path) -> dict[str, list[Path]]:
    """Return the files of each split of a folder, without WFDB headers that are segments of others."""
    files = {}
    for split, group in split_folders(root, EXTENSIONS, "signals")[1].items():
        segments: dict[Path, list[Path]] = {}
        for file in group:
            if file.suffix.lower() == ".hea":
                with reading(file, "cannot be read ({reason}): leave it out"):
                    segments[file] = segments_of(file)
        parts = {part for of_one in segments.values() for part in of_one}
        files[split] = [file for file in group if file not in parts or segments.get(file)]
    names = [Path(file.relative_to(root).parts[0]).stem for file in files.get("", ())]
    if {"train"} < set(name_splits(names).values()):
        return {split: [files[""][i] for i in group] for split, group in group_by_split(names, root).items()}
    return files


def _find_file(path: Path) -> Path:
    """Return a file; of a WFDB record's name or data file the header."""
    headers = [path.with_name(f"{path.name}.hea"), path.with_suffix(".hea")]
    header = next((header for header in headers[: 2 if path.is_file() else 1] if header.is_file()), None)
    if header is not None and path.suffix.lower() not in EXTENSIONS:
        return header
    if not path.is_file():
        raise UserError(f"path must name a folder or files, but {path} is not a folder or a file")
    return path


def read_splits(
    files: dict[str, list[Path]], sample_rate: float | None, read: Callable[[Path], list[Record]]
) -> dict[str, list[Record]]:
    """Return the usable records of each split; those left out are counted in one line.

    Args:
        files: The files of each split.
        sample_rate: Samples per second of the files that do not state it.
        read: Returns the records of a file.

    Raises:
        UserError: If none of a split is left, or all files state rates and one differs from ``sample_rate``.
    """
    records: dict[str, list[Record]] = {split: [] for split in files}
    faults: list[str] = []
    sources = [(split, file) for split, group in files.items() for file in group]
    for split, file in counted(sources, len(sources), "read", "files"):
        try:
            for record in read(file):
                fault = find_fault(record)
                if fault is None:
                    records[split].append(record)
                else:
                    faults.append(f"{record.name} is {fault}")
        except MissingChannel as error:
            faults.append(str(error))
    some = ", ".join(fault.partition(": ")[0] for fault in faults[:3]) + (", ..." if len(faults) > 3 else "")
    every = [record for group in records.values() for record in group]
    for split, group in records.items():
        if not group:
            raise UserError(f"no record{f' of {split}' if split else ''} can be used: {some or 'the files are empty'}")
    if faults:
        log.warning(f"left out {len(faults):,} of {len(every) + len(faults):,} records: {some}")
    if timed := [record for record in every if record.time is not None]:
        first = timed[0]
        rate = f"{first.sample_rate:g} samples per second" if first.sample_rate else "numbers of samples"
        more = f", and so in {len(timed) - 1:,} more" if len(timed) > 1 else ""
        log.warning(f"read {first.time} of {first.name} as times, not as a channel: {rate}{more}")
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


def check_same(records: list[Record], resample: float | None) -> None:
    """Warn where the channels of records have other names.

    Raises:
        UserError: If records differ in the number of channels, or in rate without ``resample``, or no rate is known to
            resample from.
    """
    first = records[0]
    for record in records:
        if len(record.channels) != len(first.channels):
            raise UserError(
                f"records differ in channels: {first.name} has {len(first.channels)} ({', '.join(first.channels)}), "
                f"{record.name} {len(record.channels)} ({', '.join(record.channels)}): set picks=[...] to common ones"
            )
        if record.sample_rate is None and resample is not None:
            raise UserError(f"sample_rate must be given to resample {record.name}, which does not state it")
        if (record.sample_rate or 1) != (first.sample_rate or 1) and resample is None:
            rates = first.sample_rate or 1, record.sample_rate or 1
            raise UserError(
                f"records differ in samples per second: {first.name} has {rates[0]:g}, {record.name} {rates[1]:g}: set "
                f"resample={min(rates):g}"
            )
    lower = [name.lower() for name in first.channels]
    other = next((record for record in records if [name.lower() for name in record.channels] != lower), None)
    if other:
        log.warning(
            f"channels have other names in other records: {', '.join(first.channels)} in {first.name}, "
            f"{', '.join(other.channels)} in {other.name}: choose by name with picks"
        )


def draw_records(records: list[list[Tensor]], val: float, test: float, seed: int) -> dict[str, list[list[Tensor]]]:
    """Return the records of each split, drawn by ``seed``, at least one in each with a fraction above 0."""
    drawn = draw_splits(len(records), val, test, seed, "record", ": give more, or set test_fraction=0")
    return {split: [records[i] for i in rows.tolist()] for split, rows in drawn.items()}
