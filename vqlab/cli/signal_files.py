"""What ``vqlab encode`` and ``vqlab decode`` do with records of signals, by an S4DVQ."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vqlab.cli.output_file import OutputFile
from vqlab.data.signals.records import MissingChannel, Record, change_rate, pick_channels, read_records
from vqlab.errors import UserError
from vqlab.interop.entropy_coding import fixed_rate, frequency_tables
from vqlab.interop.signal_file import FORMAT, CodedRecord, pack_record, unpack_record
from vqlab.metrics.signal import prd, snr
from vqlab.models.vq.s4dvq import S4DVQ
from vqlab.models.vq.signal_codec import SignalCodec
from vqlab.training.data_format import ENTRY


class SignalFiles:
    """Records to ``.vqs`` files, and back to npz files with ``signal``, ``fs`` and ``channels``."""

    suffix = FORMAT.suffix

    def __init__(self, model: S4DVQ) -> None:
        self.codec = SignalCodec(model)
        self.trained: dict[str, Any] = getattr(model, ENTRY, None) or {}

    def encode(self, source: Path, target: Path, array: str | None, axes: str | None) -> Iterator[OutputFile]:
        """Yield a file for each record of ``source``: ``target``, or numbered ones."""
        records = read_records(source, array, axes)
        for number, record in enumerate(records):
            path = target.with_stem(f"{target.stem}_{number}") if len(records) > 1 else target
            yield self._encode(self._as_trained(record), path)

    def decode(self, data: bytes, name: str, target: Path) -> OutputFile:
        """Return the record in the content of a file ``name``."""
        record = unpack_record(data, self.codec, name)
        arrays = {"signal": self.codec.decode(record.coded), "channels": np.array(record.channels)}
        if record.sample_rate:
            arrays["fs"] = np.array(record.sample_rate)
        file = io.BytesIO()
        np.savez(file, **arrays)  # type: ignore[arg-type]
        facts = describe_size(record.coded.num_samples, record.sample_rate, len(data))
        return OutputFile(target.with_name(f"{target.name}.npz"), file.getvalue(), facts)

    def _as_trained(self, record: Record) -> Record:
        """Return ``record`` with the channels and the rate of the training data."""
        picks, rate = self.trained.get("channels"), self.trained.get("sample_rate")
        if picks and not all(name.isdecimal() for name in record.channels):
            try:
                record = pick_channels(record, picks)
            except MissingChannel as error:
                raise UserError(f"{str(error).partition(': ')[0]}: the checkpoint needs it") from error
        if rate and record.sample_rate not in (None, rate):
            print(f"{record.name}: resampled from {record.sample_rate:g} to {rate:g} samples per second")
            record = replace(record, signal=change_rate(record.signal, record.sample_rate, rate))
        return replace(record, sample_rate=rate or record.sample_rate)

    def _encode(self, record: Record, path: Path) -> OutputFile:
        """Return the codes of a record, with size and quality."""
        codec = self.codec
        if len(record.signal) != codec.model.channels:
            names = ", ".join(record.channels)
            raise UserError(f"{record.name} must have {codec.model.channels} channels, as the checkpoint, got {names}")
        try:
            coded = codec.encode(record.signal)
        except UserError as error:
            raise UserError(f"{record.name}: {error}") from error
        data = pack_record(CodedRecord(coded, record.sample_rate, record.channels), codec)
        x, x_hat = (torch.from_numpy(signal).double() for signal in (record.signal, codec.decode(coded)))
        unit = x.std(1, keepdim=True, correction=0)
        unit = torch.where(unit > 0, unit, 1)  # snr is for signals with a deviation of about 1
        x, x_hat = x / unit, x_hat / unit
        fixed = fixed_rate(frequency_tables(codec.model.quantizer)) * len(coded.codes) / coded.num_samples
        size = describe_size(coded.num_samples, record.sample_rate, len(data))
        quality = f"SNR {snr(x_hat, x).mean():.2f} dB, PRD {prd(x_hat, x).mean():.2f} %"
        return OutputFile(path, data, f"{size} ({fixed:.3f} at log2 K bits per code), {quality}")


def describe_size(samples: int, sample_rate: float | None, size: int) -> str:
    """Return samples, seconds, bytes and bits per sample of a record as text."""
    seconds = f" {samples / sample_rate:,.1f} s," if sample_rate else ""
    return f"{samples:,} samples,{seconds} {size:,} bytes, {8 * size / samples:.3f} bits per sample"
