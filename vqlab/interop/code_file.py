"""What files of codes have in common: format, version, fingerprint of the checkpoint, checksum.

| bytes | content; integers without a size are LEB128, numbers little-endian |
| 3 | ``VQS`` for signals, ``VQI`` for images |
| 1 | version of the format |
| 8 | fingerprint of the checkpoint |
| | content |
| 4 | CRC-32 of all bytes before |
"""

import hashlib
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from vqlab.errors import UserError


@dataclass(frozen=True)
class Format:
    """A kind of file."""

    magic: bytes
    version: int

    @property
    def suffix(self) -> str:
        """The suffix of such files."""
        return f".{self.magic.decode().lower()}"

    def seal(self, content: bytes, made_by: bytes) -> bytes:
        """Return the bytes of a file with ``content``, encoded by the checkpoint with the fingerprint ``made_by``."""
        data = self.magic + bytes([self.version]) + made_by + content
        return data + struct.pack("<I", zlib.crc32(data))

    @contextmanager
    def opened(self, data: bytes, expected: bytes, name: str) -> Iterator["Reader"]:
        """Give a reader of the content of a file ``name``; UserError if it is damaged, invalid, or not ``expected``."""
        if not data.startswith(self.magic):
            raise UserError(f"{name} is {'not a file of vqlab encode' if data else 'empty'}: give {self.suffix} files")
        if len(data) < 8 or zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
            raise UserError(f"{name} is damaged or truncated, its checksum differs: copy or encode it again")
        if data[3] != self.version:
            rule = f"this vqlab reads version {self.version}: encode it again"
            raise UserError(f"{name} has format version {data[3]}, {rule}")
        reader = Reader(data[4:-4])
        try:
            if (made_by := reader.take(8)) != expected:
                found = f"{name} was encoded with another checkpoint ({made_by.hex()}, not {expected.hex()})"
                raise UserError(f"{found}: give the checkpoint that encoded it")
            yield reader
        except (ValueError, IndexError, OverflowError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{name} is invalid ({error}): encode it again") from error


def fingerprint(*parts: nn.Module) -> bytes:
    """Return 8 bytes that identify the weights and buffers of ``parts``."""
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
