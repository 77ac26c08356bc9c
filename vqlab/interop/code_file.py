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

import hashlib
import struct
import zlib
from dataclasses import dataclass

import numpy as np

from vqlab.errors import UserError
from vqlab.interop.entropy_coding import decode_codes, decode_series, encode_codes, encode_series, frequency_tables
from vqlab.models.vq.block_scaling import BlockScaling, count_blocks
from vqlab.models.vq.s4dvq import S4DVQ
from vqlab.models.vq.signal_codec import SignalCodec, SignalCodes

MAGIC, VERSION = b"VQS", 1


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
    header = [MAGIC, bytes([VERSION]), fingerprint(codec.model), struct.pack("<d", record.sample_rate or 0)]
    header += [to_leb128(number) for number in (len(names), coded.num_samples, len(text))]
    header += [text, to_leb128(coded.codes.ndim), *map(to_leb128, coded.codes.shape)]
    scales = pack_scaling(coded.scaling) if coded.scaling else b""
    payload = encode_codes(coded.codes.reshape(len(coded.codes), -1), frequency_tables(codec.model.quantizer))
    data = b"".join([*header, to_leb128(len(scales)), scales, payload])
    return data + struct.pack("<I", zlib.crc32(data))


def unpack_record(data: bytes, codec: SignalCodec, name: str) -> CodedRecord:
    """Return the record in the content of a file ``name``; UserError if it is damaged or of another checkpoint."""
    if not data.startswith(MAGIC):
        raise UserError(f"{name} is {'not a file of vqlab encode' if data else 'empty'}: give .vqs files")
    if len(data) < 8 or zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise UserError(f"{name} is damaged or truncated, its checksum differs: copy or encode it again")
    if data[3] != VERSION:
        raise UserError(f"{name} has format version {data[3]}, this vqlab reads version {VERSION}: encode it again")
    try:
        return _parse(Reader(data[4:-4]), codec, name)
    except (ValueError, IndexError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name} is invalid ({error}): encode it again") from error


def _parse(reader: "Reader", codec: SignalCodec, name: str) -> CodedRecord:
    """Return the record in what follows the version."""
    model = codec.model
    made_by, expected = reader.take(8).hex(), fingerprint(model).hex()
    if made_by != expected:
        rule = "give the checkpoint that encoded it"
        raise UserError(f"{name} was encoded with another checkpoint ({made_by}, not {expected}): {rule}")
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


def fingerprint(model: S4DVQ) -> bytes:
    """Return 8 bytes that identify the weights."""
    parts = (model.encoder, model.to_code, model.quantizer, model.from_code, model.decoder)
    digest = hashlib.sha256()
    for value in (value for part in parts for value in part.state_dict().values()):
        digest.update(str(tuple(value.shape)).encode() + value.double().cpu().numpy().tobytes())
    return digest.digest()[:8]


def to_leb128(number: int) -> bytes:
    """Return a non-negative integer in groups of 7 bits, low ones first; all bytes but the last are 128 or more."""
    return bytes([number]) if number < 128 else bytes([128 + number % 128]) + to_leb128(number // 128)


class Reader:
    """Bytes that are read from the front; ValueError at their end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
        if count > len(self.data) - self.place:
            raise ValueError("it ends in its header")
        self.place += count
        return self.data[self.place - count : self.place]

    def number(self) -> int:
        """Return the next LEB128 integer, below 2^63."""
        found = shift = 0
        while shift < 63:
            (byte,) = self.take(1)
            found |= (byte & 127) << shift
            if byte < 128:
                return found
            shift += 7
        raise ValueError("an integer of more than 63 bits")

    def rest(self) -> bytes:
        """Return all remaining bytes."""
        return self.take(len(self.data) - self.place)
