"""Coders of images against theory for Gaussian sources, and the bytes that count of JPEG and WebP files."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.family import rand64
from vqlab.metrics import JPEG, PCA, PCAEntropyCoded, PCALloydMax, WebP, psnr
from vqlab.metrics.images.coders import frame_bytes, scan_bytes


def gaussian(count, size=8, channels=1, seed=0):
    """Return images of a Gaussian process, smooth in both directions, around 0.5, without values outside [0, 1]."""
    kernel = torch.exp(-torch.arange(size).double()[:, None].sub(torch.arange(size)).abs() / 4)
    root = torch.linalg.cholesky(kernel)
    return (0.5 + 0.05 * root @ rand64(count, channels, size, size, seed=seed) @ root.T).clamp(0, 1)


def water_filling(variances, bits):
    """Return the least mean squared error of a Gaussian source: sum of min(level, variance) at sum of log ratios."""
    low, high = 0.0, variances.max().item()
    for _ in range(60):
        level = (low + high) / 2
        rate = 0.5 * (variances / level).log2().clamp_min(0).sum()
        low, high = (level, high) if rate > bits else (low, level)
    return variances.clamp_max(level).sum().item()


@pytest.mark.parametrize("bits", [20, 64, 128])
def test_error_is_that_of_water_filling_and_the_loss_of_scalar_quantizers(bits):
    train, x = gaussian(4000), gaussian(1000, seed=1)
    rows = train.flatten(1)
    variances = torch.linalg.eigvalsh(torch.cov(rows.T))
    pca = PCA(train)
    for coder, least, most in ((PCALloydMax(pca), 1.0, math.sqrt(3) * math.pi / 2), (PCAEntropyCoded(pca), 1.0, 1.6)):
        coded = coder.code(x, bits)
        error = (coded.x_hat - x).square().sum((1, 2, 3)).mean().item()
        # The rate of the entropy coder is that of its step, not exactly the one asked for.
        assert least * 0.98 < error / water_filling(variances, coded.bits_per_image) < most
        assert coded.bits_per_image == pytest.approx(bits, rel=0.05 if coder.kind == "entropy-coded" else 0)


def test_all_bits_of_the_pca_reconstruct():
    x = gaussian(200, channels=3)
    error = (PCAEntropyCoded(PCA(x)).code(x, 2000).x_hat - x).abs().max()
    assert error < 0.02


def test_large_images_are_coded_in_blocks():
    x = rand64(6, 3, 48, 48, seed=0).sigmoid()
    pca = PCA(x)
    assert (pca.edge, pca.blocks) == (24, 4)
    torch.testing.assert_close(pca.inverse(pca.forward(x), x), x)  # 24 blocks span 23 directions
    blocks = pca.to_blocks(x)
    assert torch.equal(blocks[1].view(3, 24, 24), x[0, :, :24, 24:])
    assert PCALloydMax(pca).code(x, 41).bits_per_image == 40


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [5, 50])
@pytest.mark.parametrize(("codec", "header"), [(JPEG(), 300), (WebP(), 30)])
def test_files_are_counted_without_headers(codec, header, quality, channels):
    x = gaussian(3, 32, channels).float()
    coded = codec.code(x, quality)
    pixels = [(image * 255).round().byte().movedim(0, 2).numpy() for image in x]
    options = {"format": type(codec).__name__, "quality": quality}
    options |= {"subsampling": "4:2:0"} if isinstance(codec, JPEG) else {"method": 6}
    total = 0
    for image, found in zip(pixels, coded.x_hat, strict=True):
        file = io.BytesIO()
        Image.fromarray(image[..., 0] if channels == 1 else image).save(file, **options)
        with Image.open(file) as back:
            expected = np.asarray(back.convert("L" if channels == 1 else "RGB")).reshape(image.shape)
        assert np.array_equal((found * 255).round().byte().movedim(0, 2).numpy(), expected)
        counted = (scan_bytes if isinstance(codec, JPEG) else frame_bytes)(file.getvalue())
        assert header <= len(file.getvalue()) - counted <= header + 330
        total += counted
    assert coded.bits_per_image == pytest.approx(8 * total / 3)
    assert 20 < psnr(coded.x_hat, x) < 60


def test_scan_of_a_file_that_is_put_together():
    segments = b"\xff\xd8" + b"\xff\xe0\x00\x04ab" + b"\xff\xdb\x00\x03c" + b"\xff\xda\x00\x05def"
    assert scan_bytes(segments + b"1234567\xff\xd9") == 9
    assert frame_bytes(b"RIFF....WEBPVP8 " + (25).to_bytes(4, "little") + bytes(26)) == 15
