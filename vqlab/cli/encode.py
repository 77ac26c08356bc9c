"""``vqlab encode``: records of signals to files of codes, by an S4DVQ."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqlab.atomic_io import write_atomic
from vqlab.cli.arguments import Parser
from vqlab.errors import UserError

if TYPE_CHECKING:
    from vqlab.data.signals.records import Record
    from vqlab.models.vq.signal_codec import SignalCodec


def encode(args: Sequence[str]) -> None:
    """Run ``vqlab encode`` with ``args``."""
    parser = Parser(prog="vqlab encode", description="Encode records of signals with an S4DVQ, one .vqs file each.")
    parser.add_argument("checkpoint", type=Path, help="a .ckpt file of an S4DVQ with codes")
    parser.add_argument("files", type=Path, nargs="+", help="npy, npz, csv, wav or WFDB (.hea) files")
    parser.add_argument("-o", "--out", type=Path, default=Path("encoded"), help="folder to write to (default encoded)")
    parser.add_argument("--array", help="name of the array in npz files with more than one")
    parser.add_argument("--axes", help="axes of arrays, of n records, c channels, t samples, such as 'n t'")
    options = parser.parse_args(args)
    outputs = name_outputs(options.files, options.out, ".vqs")

    from vqlab.data.signals.records import read_records  # late, so that help and wrong options are answered quickly

    codec, trained = load_codec(options.checkpoint)
    for source, output in zip(options.files, outputs, strict=True):
        for path, record in _read(read_records(source, options.array, options.axes), output, trained):
            print(f"{path}: {_encode(codec, record, path)}")


def _encode(codec: "SignalCodec", record: "Record", path: Path) -> str:
    """Write the codes of a record, and return size and quality as text."""
    import torch

    from vqlab.interop.code_file import CodedRecord, pack_record
    from vqlab.interop.entropy_coding import fixed_rate, frequency_tables
    from vqlab.metrics.signal import prd, snr

    if len(record.signal) != codec.model.channels:
        names = ", ".join(record.channels)
        raise UserError(f"{record.name} must have {codec.model.channels} channels, as the checkpoint, got {names}")
    try:
        coded = codec.encode(record.signal)
    except UserError as error:
        raise UserError(f"{record.name}: {error}") from error
    data = pack_record(CodedRecord(coded, record.sample_rate, record.channels), codec)
    with write_atomic(path, "-o") as file:
        file.write(data)
    x, x_hat = (torch.from_numpy(signal).double() for signal in (record.signal, codec.decode(coded)))
    unit = x.std(1, keepdim=True, correction=0)
    unit = torch.where(unit > 0, unit, 1)  # snr is for signals with a deviation of about 1
    x, x_hat = x / unit, x_hat / unit
    fixed = fixed_rate(frequency_tables(codec.model.quantizer)) * len(coded.codes) / coded.num_samples
    rates = f"{describe_size(coded.num_samples, record.sample_rate, len(data))} ({fixed:.3f} at log2 K bits per code)"
    return f"{rates}, SNR {snr(x_hat, x).mean():.2f} dB, PRD {prd(x_hat, x).mean():.2f} %"


def load_codec(checkpoint: Path) -> "tuple[SignalCodec, dict[str, Any]]":
    """Return the codec of a checkpoint, and the format of its data; UserError if it is not an S4DVQ with codes."""
    from vqlab.models.vq.s4dvq import S4DVQ
    from vqlab.models.vq.signal_codec import SignalCodec
    from vqlab.training.checkpoint import load
    from vqlab.training.data_format import ENTRY

    model = load(checkpoint)
    if not isinstance(model, S4DVQ):
        raise UserError(
            f"{checkpoint} is a {type(model).__name__}: encode and decode need a model of signals, an S4DVQ"
        )
    return SignalCodec(model), getattr(model, ENTRY, None) or {}


def name_outputs(files: Sequence[Path], folder: Path, suffix: str) -> list[Path]:
    """Return the file to write for each of ``files``; UserError if two have the same name."""
    outputs: dict[Path, Path] = {}
    for file in files:
        path = folder / f"{file.stem}{suffix}"
        if path in outputs:
            raise UserError(f"{outputs[path]} and {file} would both become {path}: run one command for each, with -o")
        outputs[path] = file
    return list(outputs)


def describe_size(samples: int, sample_rate: float | None, size: int) -> str:
    """Return samples, seconds, bytes and bits per sample of a record as text."""
    seconds = f" {samples / sample_rate:,.1f} s," if sample_rate else ""
    return f"{samples:,} samples,{seconds} {size:,} bytes, {8 * size / samples:.3f} bits per sample"


def _read(records: "list[Record]", output: Path, trained: dict[str, Any]) -> "Iterator[tuple[Path, Record]]":
    """Yield the records of a file, with the channels and the rate of the training data, and the files to write."""
    from vqlab.data.signals.records import MissingChannel, change_rate, pick_channels

    for number, record in enumerate(records):
        picks, rate = trained.get("channels"), trained.get("sample_rate")
        if picks and not all(name.isdecimal() for name in record.channels):
            try:
                record = pick_channels(record, picks)
            except MissingChannel as error:
                raise UserError(f"{str(error).partition(': ')[0]}: the checkpoint needs it") from error
        if rate and record.sample_rate not in (None, rate):
            print(f"{record.name}: resampled from {record.sample_rate:g} to {rate:g} samples per second")
            record = replace(record, signal=change_rate(record.signal, record.sample_rate, rate))
        path = output.with_stem(f"{output.stem}_{number}") if len(records) > 1 else output
        yield path, replace(record, sample_rate=rate or record.sample_rate)
