"""Files of coded images: exact contents, damage, and decoders whose arithmetic differs."""

import struct
import zlib

import numpy as np
import pytest
import torch

from tests.helpers.models import build
from tests.helpers.refusal import refused
from tests.helpers.small_models import vqvae
from vqlab.errors import UserError
from vqlab.interop import ImageCodec, pack_images, unpack_images
from vqlab.models import CodePrior


@pytest.fixture(scope="module", params=["tokenizer", "prior"])
def codec(request):
    torch.manual_seed(0)
    tokenizer = vqvae()
    tokenizer.quantizer.ema_counts.copy_(0.9 ** torch.arange(16))
    return ImageCodec(
        (build(CodePrior, tokenizer, dim=16, depth=1, heads=2) if request.param == "prior" else tokenizer).eval()
    )


@pytest.fixture(scope="module")
def codes(codec):
    return np.random.default_rng(0).integers(16, size=(20, *codec.code_shape))


def sealed(content):
    return content + struct.pack("<I", zlib.crc32(content))


def test_codes_are_restored_and_little_is_added(codec, codes):
    data = pack_images(codes, codec)
    np.testing.assert_array_equal(unpack_images(data, codec, "a.vqi"), codes)
    empty = 3 + 1 + 8 + 1 + 4 + 4  # magic, version, fingerprint, number of images, two checksums
    single = pack_images(codes[:1], codec)
    assert len(single) <= empty + 4 + 2 * codec.fixed_rate / 8
    np.testing.assert_array_equal(unpack_images(single, codec, "a.vqi"), codes[:1])


def test_damaged_files_are_refused_in_one_line(codec, codes):
    data, rng = pack_images(codes, codec), np.random.default_rng(0)
    for number in range(300):
        damaged = bytearray(data)
        match number % 3:
            case 0:
                damaged[rng.integers(len(data))] ^= int(rng.integers(1, 256))
            case 1:
                del damaged[rng.integers(len(data)) :]
            case 2:
                damaged = data[:4] + rng.bytes(rng.integers(100))
        with pytest.raises(UserError, match=r"^a\.vqi is [^\n]+: [^\n]+$"):
            unpack_images(bytes(damaged), codec, "a.vqi")


def test_files_with_a_valid_checksum_but_other_codes_are_refused(codec, codes):
    data = pack_images(codes, codec)
    for place in range(17, 40):  # behind the number of images and the checksum of the codes
        content = bytearray(data[:-4])
        content[place] ^= 1
        with pytest.raises(UserError, match=r"^a\.vqi (is invalid|gives other codes than were encoded)[^\n]+$"):
            unpack_images(sealed(bytes(content)), codec, "a.vqi")


def test_invalid_headers(codec, codes):
    data = pack_images(codes, codec)
    for content, words in [
        (sealed(data[:12]), "is invalid (it ends in its header)"),
        (sealed(data[:12] + b"\0" + data[13:-4]), "is invalid (no images)"),
        (sealed(b"VQI\2" + data[4:-4]), "format version 2"),
        (sealed(b"VQS" + data[3:-4]), "is not a file of vqlab encode: give .vqi files"),
    ]:
        with refused("a.vqi", words):
            unpack_images(content, codec, "a.vqi")


def test_other_arithmetic_gives_an_error_and_no_images(codec, codes, monkeypatch):
    if codec.network is None:
        pytest.skip("the frequencies of a quantizer do not depend on floating-point sums")
    data = pack_images(codes, codec)
    forward = type(codec.network).forward
    monkeypatch.setattr(type(codec.network), "forward", lambda *args: forward(*args) * 1.01)
    with refused("a.vqi gives other codes than were encoded", "decode it on a machine such as"):
        unpack_images(data, codec, "a.vqi")
