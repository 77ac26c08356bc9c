"""Signals from files: npy, npz, csv, wav and WFDB."""

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqlab.data.datamodule import ValFraction, check_fractions, draw_splits
from vqlab.data.files import counted
from vqlab.data.signals.base import SignalDataModule, Windows
from vqlab.data.signals.records import EXTENSIONS, MissingChannel, Record, change_rate, read_records, segments_of
from vqlab.data.split_folders import group_by_split, name_splits, split_folders
from vqlab.errors import UserError
from vqlab.validation import Positive, Probability

log = logging.getLogger(__name__)


class Signals(SignalDataModule):
    """Windows of the records in npy, npz, csv, wav or WFDB files.

    Records are split, not windows: by folders ``path/train``, ``path/val`` and ``path/test`` (other usual names work,
    too) or by names such as ``x_train.npy``; missing splits are drawn by ``seed``. No window spans a gap (a sample with
    NaN in a channel). Records with a constant, infinite or empty channel, or without a channel of ``picks``, are left
    out. All data are kept in memory. A column ``time`` of a csv file gives its rate; integers of a WAV file are scaled
    to -1 .. 1; channels of a WFDB record are resampled to the highest rate among them.

    Args:
        path: A folder with files at any depth, a file, or a list of both; of a WFDB record the header ``.hea``.
        sample_rate: Samples per second of npy files, of npz without ``fs`` and of csv without times. Default: 1.
        resample: Samples per second of all records after resampling with a low-pass filter. Default: their own.
        picks: Channels, by name or number, in this order. Default: all.
        array: Name of the array in npz files with more than one.
        axes: Axes of arrays, of n records, c channels, t samples. Default: ``t``, ``c t`` or ``n c t``; of csv ``t c``.
        val_fraction: Fraction of the records for validation, if there are no such folders.
        test_fraction: Fraction of the records for test, if there are no such folders; 0 keeps none.
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
        first = check_same([*chain(*records.values())], resample)
        self.path, self.channel_names, self.channels = path, first.channels, len(first.channels)
        self.sample_rate = float(resample or first.sample_rate or 1)
        stretches = self._cut(records)
        self._every = [*chain(*chain(*stretches.values()))]
        if "val" not in stretches:
            test_fraction = 0 if "train" in stretches else test_fraction
            whole = stretches.pop("train" if "train" in stretches else "")
            hint = ": give more, or set test_fraction=0"
            drawn = draw_splits(len(whole), val_fraction, test_fraction, self.seed, "record", hint)
            stretches |= {split: [whole[i] for i in rows.tolist()] for split, rows in drawn.items()}
        self._splits = {split: Windows([*chain(*its)], self.length, self.stride) for split, its in stretches.items()}
        self.train_size = len(self._splits["train"])

    def load_all(self) -> Windows:
        return Windows(self._every, self.length, self.stride)

    def option(self, name: str, value: Any) -> str:
        if name == "channels":
            named = set(value) <= set(self.channel_names)
            return f"picks=[{','.join(value)}]" if named else "path to records of these channels"
        return super().option({"sample_rate": "resample"}.get(name, name), value)

    def _cut(self, records: dict[str, list[Record]]) -> dict[str, list[list[Tensor]]]:
        """Return for each split and record the stretches between gaps that are at least a window long."""
        gaps, short = 0, [0]
        whole: dict[str, list[list[Tensor]]] = {}
        for split, group in records.items():
            whole[split] = []
            for record in group:
                signal = change_rate(record.signal, record.sample_rate or self.sample_rate, self.sample_rate)
                gap = np.isnan(signal).any(0)
                parts = [signal[:, run] for run in np.ma.clump_unmasked(np.ma.array(gap, mask=gap))]
                gaps += int(gap.sum())
                short += [part.shape[1] for part in parts if part.shape[1] < self.length]
                if long := [torch.from_numpy(part) for part in parts if part.shape[1] >= self.length]:
                    whole[split].append(long)
            if not whole[split]:
                where = f"a record{split and f' of {split}'} without a gap"
                raise UserError(f"length must fit into {where}, got {self.length}: set length={max(2, *short)}")
        if gaps or len(short) > 1:
            shorter = f"{len(short) - 1:,} records or stretches between gaps that are shorter than a window"
            log.warning(f"left out {gaps:,} samples with NaN in a channel, and {shorter}")
        return whole


def find_files(paths: list[str]) -> dict[str, list[Path]]:
    """Return the files of each split, or of the split "" if names of folders and files do not give the splits."""
    files: dict[str, list[Path]] = defaultdict(list)
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"path must name a folder or files, but {path} does not exist")
        for split, group in (_find_in(path) if path.is_dir() else {"": [path]}).items():
            files[split] += group
    if not files or ("" in files and len(files) > 1):
        raise UserError(f"path must name folders that all have the splits, or none of them, got {', '.join(paths)}")
    return dict(files)


def _find_in(root: Path) -> dict[str, list[Path]]:
    """Return the files of each split of a folder, without WFDB headers that are segments of others."""
    files = {}
    for split, group in split_folders(root, EXTENSIONS, "signals")[1].items():
        segments = {segment for file in group if file.suffix.lower() == ".hea" for segment in segments_of(file)}
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
            for record in read(file):
                if fault := find_fault(record):
                    faults.append(f"{record.name} is {fault}")
                else:
                    records[split].append(record)
        except MissingChannel as error:
            faults.append(str(error).partition(": ")[0])
    some = ", ".join(faults[:3]) + (", ..." if len(faults) > 3 else "")
    for split, group in records.items():
        if not group:
            raise UserError(f"no record{split and f' of {split}'} can be used: {some or 'the files are empty'}")
    every = [*chain(*records.values())]
    if faults:
        log.warning(f"left out {len(faults):,} of {len(every) + len(faults):,} records: {some}")
    other = next((record for record in every if record.sample_rate != sample_rate), None)
    if sample_rate is not None and other and all(record.sample_rate for record in every):
        raise UserError(
            f"sample_rate must be that of the files, got {sample_rate:g}, but {other.name} has {other.sample_rate:g}: "
            f"leave it out, or set resample={sample_rate:g} to change it"
        )
    for group in records.values():
        group[:] = [replace(record, sample_rate=record.sample_rate or sample_rate) for record in group]
    return records


def find_fault(record: Record) -> str | None:
    """Return what is wrong if a channel is infinite in a sample, constant or empty; None for a good record."""
    for name, channel in zip(record.channels, record.signal, strict=True):
        finite = channel[~np.isnan(channel)]
        if np.isinf(finite).any():
            return f"infinite in channel {name} at sample {int(np.isinf(channel).argmax())}"
        if finite.size == 0 or np.ptp(finite) == 0:
            return f"{'constant' if finite.size else 'NaN throughout'} in channel {name}"
    return None


def check_same(records: list[Record], resample: float | None) -> Record:
    """Return the first record; UserError if others differ in channels or, without ``resample``, in rate."""
    first, renamed = records[0], ""
    for record in records:
        names = f"{', '.join(first.channels)} in {first.name}, {', '.join(record.channels)} in {record.name}"
        rates = [one.sample_rate or 1 for one in (first, record)]
        if len(record.channels) != len(first.channels):
            raise UserError(f"records differ in channels: {names}: set picks=[...] to common ones")
        if record.sample_rate is None and resample is not None:
            raise UserError(f"sample_rate must be given to resample {record.name}, which does not state it")
        if rates[0] != rates[1] and resample is None:
            shown = f"{first.name} has {rates[0]:g}, {record.name} {rates[1]:g}"
            raise UserError(f"records differ in samples per second: {shown}: set resample={min(rates):g}")
        if [*map(str.lower, record.channels)] != [*map(str.lower, first.channels)]:
            renamed = renamed or names
    if renamed:
        log.warning(f"channels have other names in other records: {renamed}: choose by name with picks")
    return first
