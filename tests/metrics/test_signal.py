"""Metrics of signals against NumPy and SciPy."""

import numpy as np
import pytest
import torch
from scipy.signal import stft

from vqlab.metrics.signal import HOP, WINDOW, correlation, prd, snr, spectral_convergence


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3, 2, 400, generator=generator) + 5
    return x + 0.3 * torch.randn(3, 2, 400, generator=generator), x


def test_snr_equals_numpy(pair):
    x_hat, x = pair
    expected = 10 * np.log10(x.numpy().var(-1) / ((x_hat - x).numpy() ** 2).mean(-1))
    np.testing.assert_allclose(snr(x_hat, x), expected, rtol=1e-4)
    torch.testing.assert_close(snr(x_hat * 7, x * 7), snr(x_hat, x), rtol=1e-4, atol=1e-4)


def test_prd_equals_numpy(pair):
    x_hat, x = (signal.double() for signal in pair)
    errors, deviations = (x - x_hat).numpy(), (x - x.mean(-1, keepdim=True)).numpy()
    expected = 100 * np.sqrt((errors**2).sum(-1) / (deviations**2).sum(-1))
    np.testing.assert_allclose(prd(x_hat, x), expected, rtol=1e-6)
    torch.testing.assert_close(snr(x_hat, x), 40 - 20 * prd(x_hat, x).log10())
    assert prd(x, x).max() < 0.02


def test_correlation_equals_numpy(pair):
    x_hat, x = pair
    expected = [[np.corrcoef(x_hat[b, c], x[b, c])[0, 1] for c in range(2)] for b in range(3)]
    np.testing.assert_allclose(correlation(x_hat, x), expected, rtol=0, atol=1e-5)
    assert correlation(torch.ones(1, 1, 10), x[:1, :1, :10]) == 0


def test_spectral_convergence_equals_scipy(pair):
    x_hat, x = pair
    spectra = [
        abs(stft(s.numpy(), nperseg=WINDOW, noverlap=WINDOW - HOP, boundary=None, padded=False)[2]) for s in (x_hat, x)
    ]
    expected = np.linalg.norm(spectra[0] - spectra[1], axis=(-2, -1)) / np.linalg.norm(spectra[1], axis=(-2, -1))
    np.testing.assert_allclose(spectral_convergence(x_hat, x), expected, rtol=1e-3)


def test_spectral_convergence_detects_smoothing(pair):
    _, x = pair
    smooth = torch.nn.functional.avg_pool1d(x, 9, 1, 4, count_include_pad=False)
    assert spectral_convergence(smooth - smooth.mean(-1, True), x - x.mean(-1, True)).min() > 0.3
