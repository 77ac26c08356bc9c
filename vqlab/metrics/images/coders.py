"""Classical coders of images: PCA, JPEG and WebP, reference points for models at the same number of bits.

Images are (N, C, H, W) in [0, 1]. The PCA is estimated from training images, JPEG and WebP need none.
"""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from vqlab.metrics.transform_coding import KLT, LloydMaxLevels, UniformCoder, at_rate

EDGE = 32  # largest edge of a block of the PCA, in pixels
COMPONENTS = 512  # coefficients of a block that are kept
ROWS = 25_000  # training blocks
STEP_ROWS = 2_500  # training blocks for the search for the step
START_OF_SCAN, WEBP_FRAME_HEADER = 0xDA, 10


@dataclass(frozen=True)
class CodedImages:
    """Reconstructed images, and the mean number of bits that one took."""

    x_hat: Tensor  # (N, C, H, W) in [0, 1]
    bits_per_image: float


class PCA:
    """The PCA of training images: of whole images up to 32 pixels wide, otherwise of square blocks of at most 32.

    The 512 leading coefficients are kept; at most 25,000 training blocks are used.

    Args:
        x: Training images (N, C, H, W), H = W.

    Example:
        >>> pca = PCA(torch.rand(20, 1, 8, 8))
        >>> tuple(pca.forward(torch.rand(5, 1, 8, 8)).shape)
        (5, 64)
    """

    def __init__(self, x: Tensor) -> None:
        size = x.shape[-1]
        self.edge = max(edge for edge in range(1, EDGE + 1) if size % edge == 0)
        self.blocks = (size // self.edge) ** 2  # of an image
        x = x[: max(1, ROWS // self.blocks)]
        pixels = self.to_blocks(x)
        self.klt = KLT(pixels, pixels.shape[1], COMPONENTS)
        self.rows = self.klt.forward(pixels)

    def to_blocks(self, x: Tensor) -> Tensor:
        """Cut images (N, C, H, W) into blocks (N blocks, C edge^2)."""
        return rearrange(x, "n c (h p) (w q) -> (n h w) (c p q)", p=self.edge, q=self.edge)

    def forward(self, x: Tensor) -> Tensor:
        """Return the coefficients (N blocks, D) of images (N, C, H, W), those of the largest variance first."""
        return self.klt.forward(self.to_blocks(x))

    def inverse(self, rows: Tensor, like: Tensor) -> Tensor:
        """Return images of the shape and dtype of ``like`` (N, C, H, W) in [0, 1]."""
        height, channels = like.shape[-1] // self.edge, like.shape[1]
        pixels = rows @ self.klt.basis.T + self.klt.mean
        sizes = {"h": height, "w": height, "c": channels, "p": self.edge}
        return rearrange(pixels, "(n h w) (c p q) -> n c (h p) (w q)", **sizes).clamp(0, 1).to(like)


class PCALloydMax:
    """Code the PCA of images at a fixed rate: greedy reverse water-filling of the bits, levels of Lloyd and Max.

    The classical transform coder (Huang and Schultheiss 1963; Gersho and Gray 1992, chapter 8).

    Args:
        pca: The transform, with the training coefficients.

    Example:
        >>> x = torch.rand(50, 1, 8, 8).cumsum(-1) / 8
        >>> coded = PCALloydMax(PCA(x)).code(x, 64)
        >>> coded.bits_per_image, bool((coded.x_hat - x).square().mean() < 0.3 * x.var())
        (64.0, True)
    """

    kind = "fixed rate"

    def __init__(self, pca: PCA) -> None:
        self.pca, self.levels = pca, LloydMaxLevels(pca.rows)

    def code(self, x: Tensor, bits_per_image: float) -> CodedImages:
        """Code images (N, C, H, W) with a fixed number of bits, the same for each block, at most 10 per coefficient."""
        bits = round(bits_per_image / self.pca.blocks)
        rows = self.levels.code(self.pca.forward(x), bits)
        return CodedImages(self.pca.inverse(rows, x), float(bits * self.pca.blocks))


class PCAEntropyCoded:
    """Code the PCA of images with one uniform step for all coefficients, and ideal entropy coding.

    The symbols of each coefficient are coded under their frequencies in the training images; at high rates no other
    scalar quantizer needs fewer bits (Gish and Pierce 1968).

    Args:
        pca: The transform, with the training coefficients.

    Example:
        >>> x = torch.rand(50, 1, 8, 8).cumsum(-1) / 8
        >>> coded = PCAEntropyCoded(PCA(x)).code(x, 64)
        >>> 60 < coded.bits_per_image < 68, bool((coded.x_hat - x).square().mean() < 0.3 * x.var())
        (True, True)
    """

    kind = "entropy-coded"

    def __init__(self, pca: PCA) -> None:
        self.pca = pca

    def code(self, x: Tensor, bits_per_image: float) -> CodedImages:
        """Code images (N, C, H, W) with the step that takes about ``bits_per_image`` on training images."""
        some = self.pca.rows[:STEP_ROWS]
        step = at_rate([some], bits_per_image / self.pca.blocks * len(some)).step
        (rows,), bits = UniformCoder([self.pca.rows], step).code([self.pca.forward(x)])
        return CodedImages(self.pca.inverse(rows, x), bits / len(x))


class JPEG:
    """Code images by Pillow's JPEG, without counting headers.

    Counted are the bytes of the entropy-coded scan, with the end-of-image marker: not the tables, which are the same
    for all images at a quality (standard Huffman tables), nor the file format. Colours are subsampled (4:2:0).

    Example:
        >>> coded = JPEG().code(torch.rand(4, 3, 32, 32), 10)
        >>> tuple(coded.x_hat.shape), 500 < coded.bits_per_image < 2000
        ((4, 3, 32, 32), True)
    """

    kind = "headers not counted"

    def code(self, x: Tensor, quality: int) -> CodedImages:
        """Code images (N, 1 or 3, H, W) at a quality from 1 to 100."""
        return by_pillow(x, scan_bytes, format="JPEG", quality=quality, subsampling="4:2:0")


class WebP:
    """Code images by Pillow's lossy WebP (method 6), without counting headers.

    Counted is the VP8 frame without its first 10 bytes (frame tag, start code and size), not the RIFF container.
    """

    kind = "headers not counted"

    def code(self, x: Tensor, quality: int) -> CodedImages:
        """Code images (N, 1 or 3, H, W) at a quality from 0 to 100."""
        return by_pillow(x, frame_bytes, format="WEBP", quality=quality, method=6)


def by_pillow(x: Tensor, counted: Callable[[bytes], int], **options: Any) -> CodedImages:
    """Return the images (N, 1 or 3, H, W) through Pillow and back; ``counted`` returns the bytes of a file to count."""
    found, total = [], 0
    for pixels in (x * 255).round().to(torch.uint8).movedim(1, 3).numpy():
        file = io.BytesIO()
        Image.fromarray(pixels[..., 0] if x.shape[1] == 1 else pixels).save(file, **options)
        total += counted(file.getvalue())
        with Image.open(file) as image:
            found.append(np.asarray(image.convert("L" if x.shape[1] == 1 else "RGB")).reshape(pixels.shape))
    x_hat = torch.from_numpy(np.stack(found)).movedim(3, 1).to(x) / 255
    return CodedImages(x_hat, 8 * total / len(x))


def scan_bytes(jpeg: bytes) -> int:
    """Return the number of bytes after the header of the scan of a baseline JPEG file."""
    place = 2  # after the start-of-image marker; then segments: marker (2 bytes), length (2 bytes), content
    while jpeg[place + 1] != START_OF_SCAN:
        place += 2 + struct.unpack_from(">H", jpeg, place + 2)[0]
    return len(jpeg) - place - 2 - struct.unpack_from(">H", jpeg, place + 2)[0]


def frame_bytes(webp: bytes) -> int:
    """Return the number of bytes of the VP8 frame of a lossy WebP file, without the frame header."""
    return struct.unpack_from("<I", webp, 16)[0] - WEBP_FRAME_HEADER
