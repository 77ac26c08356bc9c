"""Files of coded signals, ``.vqs``: a short header, the local scales, and the codes of an S4DVQ after entropy coding.

| bytes | content; integers without a size are LEB128, numbers little-endian |
| 3 | ``VQS`` |
| 1 | version of the format, 1 |
| 8 | fingerprint of the checkpoint |
| 8 | samples per second, float64; 0 if not known |
| | channels C, samples T |
| | length of the names, then the names in UTF-8, separated by a zero byte; length 0 if the channels are numbered |
| | number of axes of the codes, and their sizes: (l, ...) |
| | length of the scales, then the scales: center and unit (2 C float32), Rice codes of gains and offsets by channel |
| | words of the ANS coder, uint32 |
| 4 | CRC-32 of all bytes before |
"""

import struct
from dataclasses import dataclass

import numpy as np

from vqlab.interop.code_file import Format, Reader, fingerprint, to_leb128
from vqlab.interop.entropy_coding import decode_codes, decode_series, encode_codes, encode_series, frequency_tables
from vqlab.models.vq.block_scaling import BlockScaling, count_blocks
from vqlab.models.vq.s4dvq import S4DVQ
from vqlab.models.vq.signal_codec import SignalCodec, SignalCodes

FORMAT = Format(b"VQS", 1)


@dataclass(frozen=True)
class CodedRecord:
    """The codes of a record, and what is known about it."""

    coded: SignalCodes
    sample_rate: float | None
    channels: list[str]


def pack_record(record: CodedRecord, codec: SignalCodec) -> bytes:
    """Return the content of a file.

    Example:
        >>> codec = SignalCodec(S4DVQ().eval())
        >>> coded = codec.encode(np.random.default_rng(0).standard_normal((1, 1000)))
        >>> data = pack_record(CodedRecord(coded, 360.0, ["MLII"]), codec)
        >>> unpack_record(data, codec, "a.vqs").channels
        ['MLII']
    """
    coded, names = record.coded, record.channels
    text = b"" if all(name.isdecimal() for name in names) else "\0".join(names).encode()
    header = [struct.pack("<d", record.sample_rate or 0)]
    header += [to_leb128(number) for number in (len(names), coded.num_samples, len(text))]
    header += [text, to_leb128(coded.codes.ndim), *map(to_leb128, coded.codes.shape)]
    scales = pack_scaling(coded.scaling) if coded.scaling else b""
    payload = encode_codes(coded.codes.reshape(len(coded.codes), -1), frequency_tables(codec.model.quantizer))
    content = b"".join([*header, to_leb128(len(scales)), scales, payload])
    return FORMAT.seal(content, model_fingerprint(codec.model))


def unpack_record(data: bytes, codec: SignalCodec, name: str) -> CodedRecord:
    """Return the record in the content of a file ``name``; UserError if it is damaged or of another checkpoint."""
    with FORMAT.opened(data, model_fingerprint(codec.model), name) as reader:
        return _parse(reader, codec)


def _parse(reader: Reader, codec: SignalCodec) -> CodedRecord:
    """Return the record in what follows the fingerprint."""
    model = codec.model
    (rate,) = struct.unpack("<d", reader.take(8))
    channels, samples = reader.number(), reader.number()
    text = reader.take(reader.number())
    shape = tuple(reader.number() for _ in range(reader.number()))
    names = text.decode().split("\0") if text else [str(number) for number in range(model.channels)]
    if channels != model.channels or len(names) != channels:
        raise ValueError(f"{channels} channels {names}, the checkpoint has {model.channels}")
    if not samples or shape != model.quantizer.code_shape((codec.count_patches(samples),)):
        raise ValueError(f"codes {shape} for {samples} samples")
    if not 0 <= rate < np.inf:
        raise ValueError(f"{rate} samples per second")
    scales = reader.take(reader.number())
    if bool(scales) == bool(codec.fixed):
        raise ValueError("scales do not match the checkpoint")
    scaling = unpack_scaling(scales, channels, samples, model.length) if scales else None
    codes = decode_codes(reader.rest(), shape[0], frequency_tables(model.quantizer))
    return CodedRecord(SignalCodes(codes.reshape(shape), samples, scaling), rate or None, names)


def pack_scaling(scaling: BlockScaling) -> bytes:
    """Return center, unit, gains and offsets as bytes."""
    fixed = np.stack([scaling.center, scaling.unit]).astype("<f4").tobytes()
    return fixed + b"".join(map(encode_series, [*scaling.gains, *scaling.offsets]))


def unpack_scaling(data: bytes, channels: int, samples: int, block: int) -> BlockScaling:
    """Undo :func:`pack_scaling`; ValueError if the length differs."""
    start, blocks, series = 8 * channels, count_blocks(samples, block), []
    center, unit = np.frombuffer(data[:start], "<f4").reshape(2, channels)
    for _ in range(2 * channels):
        values, used = decode_series(data[start:], blocks)
        series.append(values)
        start += used
    if start != len(data):
        raise ValueError(f"scales of {len(data)} bytes for {samples} samples")
    return BlockScaling(block, center, unit, np.stack(series[:channels]), np.stack(series[channels:]))


def model_fingerprint(model: S4DVQ) -> bytes:
    """Return 8 bytes that identify the weights."""
    return fingerprint(model.encoder, model.to_code, model.quantizer, model.from_code, model.decoder)
