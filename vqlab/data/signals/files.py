"""Signals from files of one's own."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqlab.data.datamodule import check_fractions, draw_splits
from vqlab.data.files import counted, reading
from vqlab.data.signals.base import SignalDataModule, Windows, window_starts
from vqlab.data.signals.records import EXTENSIONS, MissingChannel, Record, read_records
from vqlab.data.signals.resampling import change_rate, finite_runs
from vqlab.data.signals.wfdb_records import segments_of
from vqlab.data.split_folders import group_by_split, name_splits, split_folders
from vqlab.errors import UserError

log = logging.getLogger(__name__)


class Signals(SignalDataModule):
    """Windows of the records in npy, npz, csv, wav or WFDB files.

    Records are split, not windows, so what is learned of one person or place is not found again in validation: by the
    folders ``path/train``, ``path/val`` and ``path/test``, also under other usual names (``training``, ``valid``,
    ``validation``, ``dev``, ``testing``, ``eval``, capital letters or not), or by files named like ``x_train.npy``.
    Without ``path/val`` the validation records are drawn from those of ``path/train`` by ``seed``, and without such
    names all splits are drawn. Where a channel is NaN there is a gap: no window reaches over one. Records with a
    channel that is constant, infinite or nowhere a number are left out, as are those without a channel of ``picks``.
    What is left out is counted in one line. All records are held in memory, 4 bytes a sample.

    Args:
        path: A folder with files at any depth, a file, or a list of both. A WFDB record may also be named by its data
            file or without an extension.
        sample_rate: Samples per second of npy files, of npz without ``fs`` and of csv without times; null is 1. Others
            say it.
        resample: Samples per second to bring all records to, low-pass filtered; null keeps theirs. The channels of a
            WFDB record come to the highest rate of those taken.
        picks: Channels to take, by name or number, in this order; null takes all.
        array: Name of the array in npz files with more than one.
        axes: What the axes of arrays are, of n records, c channels, t samples, as in ``n t``; null reads one axis as
            ``t``, two as ``c t``, three as ``n c t``, and the lines and columns of csv files as ``t c``.
        val_fraction: Share of the records kept for validation, where there are no folders.
        test_fraction: Share of the records kept for test, where there are no folders; 0 keeps none.
        **common: ``length``, ``stride``, ``batch_size``, ``standardize``, ``num_workers``, ``seed``: see
            :class:`~vqlab.data.signals.base.SignalDataModule`.

    Shape:
        See ``SignalDataModule``; a window has ``length`` samples of the rate after resampling.

    Raises:
        UserError: If files cannot be read, disagree in rate or channels, are too few to split, or no record is sound
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

    test_mend = "set --data.test_fraction, add a folder `test` under --data.path, or use `vqlab validate`"

    def __init__(
        self,
        path: str | list[str],
        sample_rate: float | None = None,
        resample: float | None = None,
        picks: list[int | str] | None = None,
        array: str | None = None,
        axes: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        for name, rate in (("sample_rate", sample_rate), ("resample", resample)):
            if rate is not None and not 0 < rate < float("inf"):
                raise UserError(f"{name} must be a positive number, got {rate}: set --data.{name}=100")
        check_fractions(val_fraction, test_fraction, "records")
        files = find_files([path] if isinstance(path, str) else path)
        sources = [(split, file) for split, group in files.items() for file in group]
        records: dict[str, list[Record]] = {split: [] for split in files}
        faults: dict[str, list[str]] = {split: [] for split in files}
        for split, file in counted(sources, len(sources), "read", "files"):
            try:
                found = read_records(file, array, axes, picks)
            except MissingChannel as error:
                faults[split].append(str(error))
                continue
            for record in found:
                fault = find_fault(record)
                if fault is None:
                    records[split].append(record)
                else:
                    faults[split].append(fault)
        report_left_out(records, faults)
        every = [record for group in records.values() for record in group]
        report_times(every)
        check_channels(every)
        self.path, self.channel_names, self.channels = path, every[0].channels, len(every[0].channels)
        rates = common_rate(every, sample_rate, resample)
        self.sample_rate = float(resample or rates[0])
        self._segments = self._cut(records, rates, resample)
        self._every = [record for group in self._segments.values() for record in group]  # in the order of the files
        if "" in self._segments:
            self._segments = split_by_lot(self._segments[""], val_fraction, test_fraction, self.seed)
        elif "val" not in self._segments:
            self._segments |= split_by_lot(self._segments["train"], val_fraction, 0, self.seed)
        self._starts = {
            split: window_starts([segment.shape[1] for record in group for segment in record], self.length, self.stride)
            for split, group in self._segments.items()
        }
        self.train_size = len(self._starts["train"])

    def load_train_val(self) -> tuple[Windows, Windows]:
        """Return the training and the validation windows."""
        return self._windows("train"), self._windows("val")

    def load_test(self) -> Windows | None:
        """Return the test windows, if records were kept for test."""
        return self._windows("test") if "test" in self._starts else None

    def load_all(self) -> Windows:
        """Return the windows of all records."""
        segments = [segment for record in self._every for segment in record]
        starts = window_starts([segment.shape[1] for segment in segments], self.length, self.stride)
        return Windows(segments, starts, self.length)

    def option(self, name: str, value: Any) -> str:
        """Rate and channels of files are set by ``resample`` and ``picks``."""
        if name == "channels":
            named = set(value) <= set(self.channel_names)
            return f"--data.picks=[{','.join(value)}]" if named else "--data.path to records of these channels"
        return super().option({"sample_rate": "resample"}.get(name, name), value)

    def _windows(self, split: str) -> Windows:
        segments = [segment for record in self._segments[split] for segment in record]
        return Windows(segments, self._starts[split], self.length)

    def _cut(
        self, records: dict[str, list[Record]], rates: list[float], resample: float | None
    ) -> dict[str, list[list[Tensor]]]:
        """Return for each split and record the stretches between gaps that hold a window, at the new rate."""
        cut: dict[str, list[list[Tensor]]] = {}
        gaps, lost, longest, number = 0, 0, 0, 0
        for split, group in records.items():
            cut[split] = []
            for record in group:
                runs = finite_runs(record.signal)
                gaps += record.signal.shape[1] - sum(end - start for start, end in runs)
                parts = [change_rate(record.signal[:, a:b], rates[number], resample) for a, b in runs]
                longest = max([longest, *(part.shape[1] for part in parts)])
                whole = [torch.from_numpy(part) for part in parts if part.shape[1] >= self.length]
                lost += len(parts) - len(whole)
                number += 1
                if whole:
                    cut[split].append(whole)
        self._check_windows(cut, longest)
        if gaps:
            log.warning(f"left out {gaps:,} samples where a channel is NaN, of {number} record(s)")
        if lost:
            log.warning(f"left out {lost:,} record(s) or stretches between gaps that are shorter than a window")
        return cut

    def _check_windows(self, cut: dict[str, list[list[Tensor]]], longest: int) -> None:
        for split, group in cut.items():
            if not group:
                of = f" of {split}" if split else ""
                raise UserError(
                    f"no record{of} has {self.length} samples without a gap (the longest has {longest}): "
                    f"set --data.length={max(2, longest)} or smaller"
                )


def find_files(paths: list[str]) -> dict[str, list[Path]]:
    """Return the files of each split; of the split "" where neither folders nor names of files say one.

    Raises:
        UserError: If there is no such file or folder, a folder without signals, or some folders are splits and others
            are not.
    """
    if not paths:
        raise UserError("path is empty: set --data.path to a folder or to files")
    files: dict[str, list[Path]] = {}
    for path in map(Path, paths):
        for split, group in (_find_in(path) if path.is_dir() else {"": [_find_file(path)]}).items():
            files.setdefault(split, []).extend(group)
    if "" in files and len(files) > 1:
        raise UserError(
            f"some of {', '.join(paths)} hold splits and others do not: set --data.path to folders which all have "
            "train/ and val/, test/ or both, or to others"
        )
    return files


def _find_in(root: Path) -> dict[str, list[Path]]:
    """Return the files of each split of a folder."""
    _, splits = split_folders(root, EXTENSIONS, "signals")
    files = {split: without_segments(group) for split, group in splits.items()}
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
        raise UserError(f"{path} is not a folder or a file: set --data.path to a folder of signals, or to files")
    return path


def without_segments(files: list[Path]) -> list[Path]:
    """Return the files without the WFDB headers that are but segments of the records which others describe."""
    whole: set[Path] = set()
    parts: set[Path] = set()
    for file in files:
        if file.suffix.lower() == ".hea":
            with reading(file, "cannot be read ({reason}): leave it out of --data.path"):
                segments = segments_of(file)
            if segments:
                whole.add(file)
                parts.update(segments)
    return [file for file in files if file not in parts - whole]


def check_channels(records: list[Record]) -> None:
    """Raise UserError unless all records have as many channels; warn where these have other names."""
    first = records[0]
    for record in records:
        if len(record.channels) != len(first.channels):
            raise UserError(
                f"records differ in channels: {first.name} has {len(first.channels)} ({', '.join(first.channels)}), "
                f"{record.name} {len(record.channels)} ({', '.join(record.channels)}): choose common ones with "
                "--data.picks"
            )
    lower = [name.lower() for name in first.channels]
    other = next((record for record in records if [name.lower() for name in record.channels] != lower), None)
    if other:
        log.warning(
            f"channels have other names in other records: {', '.join(first.channels)} in {first.name}, "
            f"{', '.join(other.channels)} in {other.name}: choose by name with --data.picks"
        )


def find_fault(record: Record) -> str | None:
    """Return what is wrong where a channel is infinite somewhere, or constant, or never recorded; else None."""
    for name, channel in zip(record.channels, record.signal, strict=True):
        finite = channel[~np.isnan(channel)]
        if np.isinf(finite).any():
            what = f"infinite in channel {name} at sample {int(np.isinf(channel).argmax())}"
        elif finite.size == 0 or np.ptp(finite) == 0:
            what = f"{'constant' if finite.size else 'nowhere a number'} in channel {name}"
        else:
            continue
        return f"{record.name} is {what}: choose others with --data.picks, or put NaN where there is a gap"
    return None


def report_left_out(records: dict[str, list[Record]], faults: dict[str, list[str]]) -> None:
    """Warn in one line of the records that are left out.

    Raises:
        UserError: If none of a split is left.
    """
    for split, group in records.items():
        if not group:
            of = f" of {split}" if split else ""
            first = faults[split][0] if faults[split] else "the files are empty: set --data.path to others"
            raise UserError(f"no record{of} can be used: {first}")
    reasons = [fault.partition(": ")[0] for group in faults.values() for fault in group]
    if reasons:
        count = sum(map(len, records.values())) + len(reasons)
        more = ", ..." if len(reasons) > 3 else ""
        log.warning(f"left out {len(reasons):,} of {count:,} records: {', '.join(reasons[:3])}{more}")


def report_times(records: list[Record]) -> None:
    """Say in one line which columns were read as times and not as channels, and what rate they mean."""
    timed = [record for record in records if record.time is not None]
    if timed:
        first = timed[0]
        rate = f"{first.sample_rate:g} samples per second" if first.sample_rate else "numbers of samples"
        more = f", and so in {len(timed) - 1:,} more" if len(timed) > 1 else ""
        log.warning(f"read {first.time} of {first.name} as times, not as a channel: {rate}{more}")


def common_rate(records: list[Record], unsaid: float | None, resample: float | None) -> list[float]:
    """Return the rate of each record, ``unsaid`` where its file does not say, and 1 where nobody does.

    Raises:
        UserError: If they differ, and no rate is given to bring all to, or one is given and a record's is not known, or
            all files say others than ``unsaid``.
    """
    silent = next((record for record in records if record.sample_rate is None), None)
    stated = next((record for record in records if record.sample_rate not in (None, unsaid)), None)
    if unsaid is not None and silent is None and stated is not None:
        hint = f"remove its column {stated.time}" if stated.time else f"set --data.resample={unsaid:g} to change it"
        raise UserError(
            f"sample_rate is {unsaid:g}, but {stated.name} has {stated.sample_rate:g} samples per second: leave out "
            f"--data.sample_rate, or {hint}"
        )
    if silent and unsaid is None and resample is not None:
        raise UserError(f"{silent.name} does not say its samples per second: set --data.sample_rate to resample")
    rates = [record.sample_rate or unsaid or 1.0 for record in records]
    other = next((number for number, rate in enumerate(rates) if rate != rates[0]), None)
    if other is not None and resample is None:
        raise UserError(
            f"records differ in samples per second: {records[0].name} has {rates[0]:g}, {records[other].name} "
            f"{rates[other]:g}: set --data.resample={min(rates):g}"
        )
    return rates


def split_by_lot(records: list[list[Tensor]], val: float, test: float, seed: int) -> dict[str, list[list[Tensor]]]:
    """Return the records of each split, drawn by ``seed``, at least one in each that has a share.

    Raises:
        UserError: If there are too few.
    """
    mend = ", for windows of one record stay together: give --data.path more, or set --data.test_fraction=0"
    drawn = draw_splits(len(records), val, test, seed, "record", mend)
    return {split: [records[i] for i in rows.tolist()] for split, rows in drawn.items()}
