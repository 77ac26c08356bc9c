"""SSIM, PSNR and diversity against scikit-image and formulas."""

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vqlab.metrics.images.quality import EffectiveClasses, diversity, psnr, ssim


def test_ssim_equals_scikit_image():
    x = torch.rand(3, 1, 32, 40)
    y = (x + 0.3 * torch.randn(3, 1, 32, 40)).clamp(0, 1)
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    expected = [structural_similarity(a[0].numpy(), b[0].numpy(), **window) for a, b in zip(x, y, strict=True)]
    assert ssim(x, y).tolist() == pytest.approx(expected, abs=0.01)  # different margins


def test_psnr_is_the_mean_over_images_and_at_most_100():
    x, y = torch.rand(2, 4, 3, 8, 8)
    expected = [peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1.0) for a, b in zip(x, y, strict=True)]
    assert psnr(x, y).item() == pytest.approx(sum(expected) / 4, rel=1e-5)
    assert psnr(x, x).item() == pytest.approx(100)


def test_diversity_is_the_ratio_of_mean_distances():
    fake, real = torch.randn(200, 3, 4, 4) * 0.3 + 5, torch.randn(200, 3, 4, 4)
    mean_squares = [torch.cdist(x.flatten(1), x.flatten(1)).square().mean().sqrt() for x in (fake, real)]
    torch.testing.assert_close(diversity(fake, real), mean_squares[0] / mean_squares[1], atol=1e-4, rtol=1e-4)
    assert diversity(fake[:1].expand(8, -1, -1, -1), real) < 1e-6


def test_effective_classes():
    classes = EffectiveClasses(10)
    for _ in range(2):
        classes.update(torch.arange(10))
    torch.testing.assert_close(classes.compute(), torch.tensor(10.0))
    classes.reset()
    classes.update(torch.zeros(5, dtype=torch.int64))
    torch.testing.assert_close(classes.compute(), torch.tensor(1.0))


def test_ssim_of_images_smaller_than_the_window():
    x = torch.rand(2, 1, 8, 8)
    assert ssim(x, x).tolist() == pytest.approx([1.0, 1.0])
    assert ssim(x, 1 - x).max() < 0.5
