"""Signals from files of one's own."""

import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.signal import resample_poly
from torch import Tensor

from vqlab.data.files import counted, list_files
from vqlab.data.records import EXTENSIONS, Record, read_records, segments_of
from vqlab.data.signals import SignalDataModule, Windows, window_starts
from vqlab.data.split_folders import group_by_split, name_splits, split_folders
from vqlab.data.splits import check_fractions, draw_splits
from vqlab.errors import UserError

log = logging.getLogger(__name__)


class Signals(SignalDataModule):
    """Windows of the records in npy, npz, csv, wav or WFDB files.

    Records are split, not windows, so what is learned of one person or place is not found again in validation: by the
    folders ``path/train``, ``path/val`` and ``path/test``, also under other usual names (``training``, ``valid``,
    ``validation``, ``dev``, ``testing``, ``eval``, capital letters or not), or by files named like ``x_train.npy``.
    Without ``path/val`` the validation records are drawn from those of ``path/train`` by ``seed``, and without such
    names all splits are drawn. Where a channel is NaN there is a gap: no window reaches over one, and what is left out
    is counted in one line. All records are held in memory, 4 bytes a sample.

    Args:
        path: A folder with files at any depth, a file, or a list of both.
        sample_rate: Samples per second of npy and csv files, and of npz without ``fs``; null is 1. Others say it.
        resample: Samples per second to bring all records to, low-pass filtered; null keeps theirs.
        picks: Channels to take, by name or number, in this order; null takes all.
        array: Name of the array in npz files with more than one.
        axes: What the axes of arrays are, of n records, c channels, t samples, as in ``n t``; null reads one axis as
            ``t``, two as ``c t``, three as ``n c t``.
        val_fraction: Share of the records kept for validation, where there are no folders.
        test_fraction: Share of the records kept for test, where there are no folders; 0 keeps none.
        **common: ``length``, ``stride``, ``batch_size``, ``standardize``, ``num_workers``, ``seed``: see
            :class:`~vqlab.data.signals.SignalDataModule`.

    Shape:
        See :class:`~vqlab.data.signals.SignalDataModule`; a window has ``length`` samples of the rate after resampling.

    Raises:
        UserError: If files cannot be read, disagree in rate or channels, hold infinite values or a constant channel,
            are too few to split, or no record is as long as a window.

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
        for split, file in counted(sources, len(sources), "read", "files"):
            records[split] += [pick(record, picks) for record in read_records(file, array, axes)]
        every = [record for group in records.values() for record in group]
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
                check_values(record)
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
    if len(paths) > 1 or not Path(paths[0]).is_dir():
        return {"": [file for path in paths for file in list_signals(Path(path))]}
    root = Path(paths[0])
    _, splits = split_folders(root, EXTENSIONS, "signals")
    files = {split: without_segments(group) for split, group in splits.items()}
    names = [Path(file.relative_to(root).parts[0]).stem for file in files.get("", ())]
    if {"train"} < set(name_splits(names).values()):
        return {split: [files[""][i] for i in group] for split, group in group_by_split(names, root).items()}
    return files


def list_signals(path: Path) -> list[Path]:
    """Return the signal files under a folder, or the one that it is."""
    return [path] if path.is_file() else without_segments(list_files(path, EXTENSIONS, "signals"))


def without_segments(files: list[Path]) -> list[Path]:
    """Return the files without the WFDB headers that are parts of the records which others describe."""
    parts = segments_of([file for file in files if file.suffix.lower() == ".hea"])
    return [file for file in files if file not in parts]


def pick(record: Record, picks: list[int | str] | None) -> Record:
    """Return the record with the channels ``picks`` only.

    Raises:
        UserError: If it has no such channel.
    """
    if picks is None:
        return record
    numbers = []
    for name in picks:
        if isinstance(name, str) and name in record.channels:
            numbers.append(record.channels.index(name))
        elif isinstance(name, int) and 0 <= name < len(record.channels):
            numbers.append(name)
        else:
            raise UserError(
                f"{record.name} has no channel {name}, but {', '.join(record.channels)}: set --data.picks to some of "
                "these, or leave the record out"
            )
    return Record(record.name, record.signal[numbers], record.sample_rate, [record.channels[n] for n in numbers])


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
    other = next((record for record in records if record.channels != first.channels), None)
    if other:
        log.warning(
            f"channels have other names in other records: {', '.join(first.channels)} in {first.name}, "
            f"{', '.join(other.channels)} in {other.name}: choose by name with --data.picks"
        )


def check_values(record: Record) -> None:
    """Raise UserError if a channel is infinite somewhere, or constant, or never recorded."""
    for name, channel in zip(record.channels, record.signal, strict=True):
        if np.isinf(channel).any():
            first = int(np.isinf(channel).argmax())
            raise UserError(f"{record.name} is infinite in channel {name} at sample {first}: put NaN there for a gap")
        finite = channel[~np.isnan(channel)]
        if finite.size == 0 or np.ptp(finite) == 0:
            what = "constant" if finite.size else "nowhere a number"
            raise UserError(
                f"{record.name} is {what} in channel {name}: leave the record out, or choose others with --data.picks"
            )


def common_rate(records: list[Record], unsaid: float | None, resample: float | None) -> list[float]:
    """Return the rate of each record, ``unsaid`` where its file does not say, and 1 where nobody does.

    Raises:
        UserError: If they differ, and no rate is given to bring all to, or one is given and a record's is not known.
    """
    silent = next((record for record in records if record.sample_rate is None), None)
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


def finite_runs(signal: np.ndarray) -> list[tuple[int, int]]:
    """Return start and end of each stretch of (C, T) in which no channel is NaN.

    Example:
        >>> finite_runs(np.array([[1, np.nan, 2, 3, 4], [1, 2, 3, 4, np.nan]]))
        [(0, 1), (2, 4)]
    """
    known = np.concatenate([[False], ~np.isnan(signal).any(0), [False]])
    edges = np.flatnonzero(known[1:] != known[:-1])
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def change_rate(signal: np.ndarray, old: float, new: float | None) -> np.ndarray:
    """Return (C, T) at ``new`` samples per second, low-pass filtered against aliases (polyphase, zero phase)."""
    if new is None or new == old:
        return signal
    ratio = Fraction(new / old).limit_denominator(10_000)
    if not ratio:
        raise UserError(f"{new:g} samples per second are too few for records of {old:g}: set --data.resample higher")
    # "line" takes a trend out first: a signal that does not start or end at 0 would ring there.
    return resample_poly(signal, ratio.numerator, ratio.denominator, axis=-1, padtype="line").astype(np.float32)


def split_by_lot(records: list[list[Tensor]], val: float, test: float, seed: int) -> dict[str, list[list[Tensor]]]:
    """Return the records of each split, drawn by ``seed``, at least one in each that has a share.

    Raises:
        UserError: If there are too few.
    """
    mend = ", for windows of one record stay together: give --data.path more, or set --data.test_fraction=0"
    drawn = draw_splits(len(records), val, test, seed, "record", mend)
    return {split: [records[i] for i in rows.tolist()] for split, rows in drawn.items()}
