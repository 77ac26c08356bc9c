import pytest
import torch
from skimage.metrics import structural_similarity

from vqlab.metrics.images.ssim import ssim


def test_each_image_has_the_ssim_that_scikit_image_finds():
    x = torch.rand(3, 1, 32, 40)
    y = (x + 0.3 * torch.randn(3, 1, 32, 40)).clamp(0, 1)
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    expected = [structural_similarity(a[0].numpy(), b[0].numpy(), **window) for a, b in zip(x, y, strict=True)]
    assert ssim(x, y).tolist() == pytest.approx(expected, abs=0.01)  # the two differ at the margin


def test_images_smaller_than_the_usual_window():
    x = torch.rand(2, 1, 8, 8)
    assert ssim(x, x).tolist() == pytest.approx([1.0, 1.0])
    assert ssim(x, 1 - x).max() < 0.5
