"""Size, accuracy and speed of ``vqlab encode`` and ``vqlab decode`` on records, on one core.

    vqlab fit --config configs/s4dvq.yaml --data=Signals --data.path=train.npz ...
    python benchmarks/signal_codec.py best.ckpt mitbih.npz --array x --axes 'n t' --records 10 11

Beside the file of vqlab: FLAC, which has no error (16 bits, integers as they are, other values scaled to their
range); and a transform coder at the same bits per sample, the KLT of 64 samples with one uniform step for all
coefficients and the ideal entropy of each. Its transform and its probabilities are those of the record itself and
cost it no bits, which favours it. Speed is the ratio of the record's seconds to those of the processor.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from measuring import CPU, stopwatch

import vqlab
from vqlab.data.signals.records import Record, read_records
from vqlab.interop import CodedRecord, pack_record, unpack_record
from vqlab.metrics import KLTEntropyCoded
from vqlab.models import SignalCodec

BLOCK = 64  # samples of a transform


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--array")
    parser.add_argument("--axes")
    parser.add_argument("--records", type=int, nargs="+", help="numbers of records in the file, default: all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    codec = SignalCodec(vqlab.load(options.checkpoint))
    records = read_records(options.file, options.array, options.axes)
    print("| record | coder | bytes | bits per sample | SNR, dB | PRD, % | encode, x real time | decode, x real time |")
    print("|---" * 8 + "|")
    for number in options.records or range(len(records)):
        measure(codec, records[number])


def measure(codec: SignalCodec, record: Record) -> None:
    """Print the rows of a record."""
    x, rate = record.signal, record.sample_rate or 1.0
    found: dict[str, bytes | np.ndarray] = {}

    def encode() -> None:
        found["data"] = pack_record(CodedRecord(codec.encode(x), rate, record.channels), codec)

    def decode() -> None:
        found["signal"] = codec.decode(unpack_record(bytes(found["data"]), codec, record.name).coded)

    encode()
    decode()  # both to warm up
    speeds = [x.shape[1] / rate / stopwatch(run, CPU) for run in (encode, decode)]
    size = len(found["data"])
    bits = 8 * size / x.shape[1]
    flac = len(as_flac(x, round(rate)))
    rows = [
        ("vqlab", size, snr(np.asarray(found["signal"]), x), [f"{speed:,.0f}" for speed in speeds]),
        ("KLT of 64 samples", size, snr(transform_coder(x, bits), x), ["", ""]),
        ("FLAC, no error", flac, np.inf, ["", ""]),
    ]
    for name, count, ratio, times in rows:
        cells = [f"{count:,}", f"{8 * count / x.shape[1]:.3f}", f"{ratio:.2f}", f"{100 * 10 ** (-ratio / 20):.2f}"]
        print(f"| {Path(record.name).name} | {name} | " + " | ".join([*cells, *times]) + " |")


def snr(x_hat: np.ndarray, x: np.ndarray) -> float:
    """Return the signal-to-noise ratio in dB, averaged over the channels."""
    return float(np.mean(10 * np.log10(x.astype(float).var(1) / np.square(x_hat - x, dtype=float).mean(1))))


def as_flac(x: np.ndarray, rate: int) -> bytes:
    """Return a record (C, T) as FLAC."""
    import soundfile

    whole = np.array_equal(x, np.rint(x)) and np.abs(x).max() < 2**15
    values = x if whole else x * (2**15 - 1) / np.abs(x).max()
    file = io.BytesIO()
    soundfile.write(file, np.rint(values).astype(np.int16).T, rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def transform_coder(x: np.ndarray, bits: float) -> np.ndarray:
    """Return a record (C, T) after the transform coder at ``bits`` per sample (of all channels)."""
    padded = np.pad(x, ((0, 0), (0, -x.shape[1] % BLOCK)), "edge")[None]
    record = torch.from_numpy(padded.astype(np.float64))
    coded = KLTEntropyCoded(BLOCK).fit(record).code(record, bits / len(x))
    return coded.x_hat[0, :, : x.shape[1]].numpy()


if __name__ == "__main__":
    main()
