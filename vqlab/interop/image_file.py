"""Files of coded images, ``.vqi``: the codes of a tokenizer after entropy coding, by a prior if there is one.

The content (see ``code_file``) is the number of images, CRC-32 of the codes as int32, and the words: of a range coder
under the probabilities of a ``CodePrior``, or of an ANS coder under the frequencies of the quantizer.
"""

import math
import struct
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.interop.code_file import Format, fingerprint, to_leb128
from vqlab.interop.entropy_coding import decode_codes, encode_codes, frequency_tables
from vqlab.interop.prior_coding import CHUNK, decode_by_network, encode_by_network
from vqlab.models.prior.code_prior import CodePrior
from vqlab.models.prior.tokenizer import find_tokenizer
from vqlab.models.vq.code_search import search_codes
from vqlab.nn import ImageFormat

FORMAT = Format(b"VQI", 1)


class ImageCodec:
    """Encode images with a tokenizer and decode them; files of the codes are as short as its prior allows.

    Args:
        model: A :class:`~vqlab.CodePrior`, or a tokenizer (VQVAE, VQGAN, JSA, ...), in eval mode.
        candidates: Codes of each position that are tried in the decoder, as in ``search_codes``; 1: the nearest.

    Raises:
        UserError: If the model has no codes, or its quantizer cannot search them.

    Example:
        >>> from vqlab import VQVAE
        >>> codec = ImageCodec(VQVAE().eval())
        >>> codes = codec.encode(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
        >>> codes.shape, codec.decode(codes).shape, codec.fixed_rate
        ((2, 8, 8), torch.Size([2, 3, 32, 32]), 576.0)
    """

    def __init__(self, model: Any, candidates: int = 1) -> None:
        self.tokenizer, self.candidates = find_tokenizer(model), candidates
        if hasattr(model, "tokenizer") and not isinstance(model, CodePrior):
            raise UserError(f"{type(model).__name__} cannot code files: use a CodePrior, or the tokenizer alone")
        self.network = model.network if isinstance(model, CodePrior) else None
        self.images: ImageFormat = self.tokenizer.images
        quantizer = self.tokenizer.quantizer
        if quantizer.num_embeddings < 2:
            raise UserError(f"the model must have codes, {type(quantizer).__name__} has none: use another checkpoint")
        self.code_shape = self.encode(torch.zeros(1, *self.images.shape, dtype=torch.uint8)).shape[1:]
        self.fixed_rate = math.prod(self.code_shape) * math.log2(quantizer.num_embeddings)  # bits per image

    @torch.inference_mode()
    def encode(self, images: Tensor) -> np.ndarray:
        """Return the codes (N, ...) int64 of images (N, C, H, W) uint8."""
        value_range, like = self.images.value_range, next(self.tokenizer.parameters())
        chunks = [value_range.encode(chunk.to(like) / 255) for chunk in images.split(CHUNK)]
        if self.candidates == 1:
            return np.concatenate([self.tokenizer.encode(x).cpu().numpy() for x in chunks])
        return np.concatenate([search_codes(self.tokenizer, x, self.candidates).cpu().numpy() for x in chunks])

    @torch.inference_mode()
    def decode(self, codes: np.ndarray) -> Tensor:
        """Return images (N, C, H, W) uint8."""
        device = next(self.tokenizer.parameters()).device
        chunks = torch.from_numpy(codes).split(CHUNK)
        return torch.cat(
            [self.images.value_range.to_uint8(self.tokenizer.decode(c.to(device)).float()).cpu() for c in chunks]
        )

    @property
    def fingerprint(self) -> bytes:
        """8 bytes that identify the weights."""
        return fingerprint(self.tokenizer, *([self.network] if self.network else []))


def pack_images(codes: np.ndarray, codec: ImageCodec) -> bytes:
    """Return the content of a file with codes (N, ...).

    Example:
        >>> from vqlab import VQVAE
        >>> codec = ImageCodec(VQVAE().eval())
        >>> codes = codec.encode(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
        >>> bool((unpack_images(pack_images(codes, codec), codec, "a.vqi") == codes).all())
        True
    """
    flat = codes.reshape(len(codes), -1)
    if codec.network:
        payload = encode_by_network(flat, codec.network)
    else:
        tables = frequency_tables(codec.tokenizer.quantizer)
        payload = encode_codes(flat.reshape(-1, len(tables)), tables)
    return FORMAT.seal(to_leb128(len(codes)) + checksum(flat) + payload, codec.fingerprint)


def unpack_images(data: bytes, codec: ImageCodec, name: str) -> np.ndarray:
    """Return the codes (N, ...) in the content of a file ``name``; UserError if they differ from the encoded ones."""
    with FORMAT.opened(data, codec.fingerprint, name) as reader:
        count, expected, payload = reader.number(), reader.take(4), reader.rest()
        if count < 1:
            raise ValueError("no images")
        if codec.network:
            try:
                flat = decode_by_network(payload, count, codec.network)
            except ValueError:
                flat = np.empty(0)
        else:
            tables = frequency_tables(codec.tokenizer.quantizer)
            flat = decode_codes(payload, count * math.prod(codec.code_shape) // len(tables), tables)
        if checksum(flat) != expected:
            found = f"{name} gives other codes than were encoded, because this machine's arithmetic differs"
            raise UserError(f"{found}: decode it on a machine such as the one that encoded it")
    return flat.reshape(count, *codec.code_shape)


def checksum(codes: np.ndarray) -> bytes:
    """Return the CRC-32 of codes as int32."""
    return struct.pack("<I", zlib.crc32(codes.astype("<i4").tobytes()))
