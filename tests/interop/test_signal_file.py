"""Files of codes: exact contents, every damage and every invalid header in one line."""

import re
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.codecs import LENGTH, small_s4dvq, wave
from tests.helpers.refusal import refused
from vqlab.errors import UserError
from vqlab.interop import CodedRecord, pack_record, unpack_record
from vqlab.interop.code_file import to_leb128
from vqlab.models import SignalCodec

HEAD = 20  # bytes of magic, version, fingerprint and rate


@pytest.fixture(scope="module")
def codec():
    return SignalCodec(small_s4dvq())


@pytest.fixture(scope="module")
def data(codec):
    return pack_record(CodedRecord(codec.encode(wave(1000)), 360.0, ["MLII"]), codec)


def sealed(content):
    """Return ``content`` with its checksum."""
    return content + struct.pack("<I", zlib.crc32(content))


@pytest.mark.parametrize(
    ("rate", "names"), [(360.0, ["MLII", "µV, Kanal 2"]), (None, ["0", "1"]), (1 / 3, ["0", "V5"])]
)
def test_record_is_restored(rate, names):
    codec = SignalCodec(small_s4dvq(channels=2))
    record = CodedRecord(codec.encode(wave(999, 2)), rate, names)
    found = unpack_record(pack_record(record, codec), codec, "a.vqs")
    assert (found.sample_rate, found.channels, found.coded.num_samples) == (rate, names, 999)
    np.testing.assert_array_equal(found.coded.codes, record.coded.codes)
    np.testing.assert_array_equal(codec.decode(found.coded), codec.decode(record.coded))


def test_fixed_scaling_is_not_written():
    codec = SignalCodec(small_s4dvq(standardize="none"))
    record = CodedRecord(codec.encode(wave(1)), None, ["0"])
    data = pack_record(record, codec)
    assert len(data) <= HEAD + 10 + 8 + 4
    assert unpack_record(data, codec, "a.vqs").coded.scaling is None


def test_damaged_files_are_refused_in_one_line(codec, data):
    rng = np.random.default_rng(0)
    for number in range(1000):
        damaged = bytearray(data)
        match number % 4:
            case 0:  # flipped bytes
                for place in rng.integers(len(data), size=1 + number % 7):
                    damaged[place] ^= int(rng.integers(1, 256))
            case 1:
                del damaged[rng.integers(len(data)) :]
            case 2:
                damaged = rng.bytes(rng.integers(200))
            case 3:
                damaged = data[:4] + rng.bytes(rng.integers(200))
        with pytest.raises(UserError, match=r"^a\.vqs is [^\n]+: [^\n]+$"):
            unpack_record(bytes(damaged), codec, "a.vqs")


def test_random_headers_with_a_valid_checksum_are_refused_or_read(codec, data):
    rng, faults = np.random.default_rng(0), []
    for _ in range(1000):
        content = bytearray(data[:-4])
        for place in rng.integers(12, len(content), size=2):
            content[place] ^= int(rng.integers(1, 256))
        try:
            unpack_record(sealed(bytes(content)), codec, "a.vqs")
        except UserError as error:
            faults.append(str(error))
    assert len(faults) > 200
    assert all(re.fullmatch(r"a\.vqs is invalid \([^\n]+\): [^\n]+", fault) for fault in faults)


def test_foreign_empty_and_later_files(codec, data):
    for content, words in [
        (b"", "is empty"),
        (b"RIFF" + data, "is not a file of vqlab encode"),
        (data[:6], "damaged or truncated"),
        (sealed(b"VQS\2" + data[4:-4]), "format version 2"),
        (sealed(data[:9]), "invalid (it ends in its header)"),
    ]:
        with refused("a.vqs", words):
            unpack_record(content, codec, "a.vqs")


def test_file_of_another_checkpoint(data):
    with refused("a.vqs was encoded with another checkpoint", "give the checkpoint that encoded it"):
        unpack_record(data, SignalCodec(small_s4dvq(seed=1)), "a.vqs")


def header(data, channels=1, samples=1000, name=b"MLII", shape=(63, 3), rate=360.0):
    """Return ``data`` with another header."""
    start = HEAD + len(b"".join(map(to_leb128, (1, 1000, 4)))) + 4 + 3
    numbers = [to_leb128(number) for number in (channels, samples, len(name))]
    sizes = [to_leb128(number) for number in (len(shape), *shape)]
    return sealed(b"".join([data[:12], struct.pack("<d", rate), *numbers, name, *sizes, data[start:-4]]))


def test_invalid_headers(codec, data):
    assert header(data) == data
    for content, words in [
        (header(data, channels=2), "2 channels ['MLII']"),
        (header(data, channels=2**62, name=b""), "channels"),
        (header(data, channels=1, name=b"a\0b"), "1 channels ['a', 'b']"),
        (header(data, name=b"\xff"), "invalid"),
        (header(data, samples=0), "codes (63, 3) for 0 samples"),
        (header(data, samples=2**60), "codes (63, 3) for"),
        (header(data, shape=(64, 3)), "codes (64, 3) for 1000 samples"),
        (header(data, shape=(63,)), "codes (63,) for 1000 samples"),
        (header(data, samples=2**60, shape=(2**56, 3)), "are too few for"),
        (header(data, rate=-1.0), "-1.0 samples per second"),
        (header(data, rate=float("nan")), "nan samples per second"),
        (sealed(data[:HEAD] + b"\xff" * 20), "more than 63 bits"),
    ]:
        with refused("a.vqs is invalid", words):
            unpack_record(content, codec, "a.vqs")


def test_scales_that_the_checkpoint_does_not_need(codec, data):
    fixed = SignalCodec(small_s4dvq(standardize="none"))  # the same weights
    with refused("scales do not match the checkpoint"):
        unpack_record(data, fixed, "a.vqs")
    coded = codec.encode(wave(8 * LENGTH))
    longer = replace(coded.scaling, gains=coded.scaling.gains[:, :-1])
    with refused("a.vqs is invalid"):
        unpack_record(pack_record(CodedRecord(replace(coded, scaling=longer), None, ["0"]), codec), codec, "a.vqs")
