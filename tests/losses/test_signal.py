"""Losses of signals against SciPy in float64, at silence, on short signals and under autocast."""

import numpy as np
import pytest
import torch
from scipy.signal import stft

from tests.helpers.refusal import refused
from vqlab.losses import MultiResolutionSTFT, derivative_loss
from vqlab.losses.signal import FLOOR


def by_scipy(x_hat, x, windows):
    """Yamamoto et al. 2020, with the reflected ends of SciPy's ``even`` boundary."""
    total = 0.0
    for size in windows:
        scale = np.hanning(size + 1).sum()  # SciPy divides by the sum of the periodic window
        options = {"nperseg": size, "noverlap": size - size // 4, "boundary": "even", "padded": False}
        a, b = (np.sqrt(abs(stft(s.double().numpy(), **options)[2] * scale) ** 2 + FLOOR) for s in (x_hat, x))
        total += np.linalg.norm(b - a) / np.linalg.norm(b) + abs(np.log(b) - np.log(a)).mean()
    return total / len(windows)


@pytest.mark.parametrize("windows", [(32, 64, 128), (16,), (30, 50)])
@pytest.mark.parametrize("length", [512, 401])
def test_stft_loss_equals_scipy(windows, length):
    x = torch.randn(3, 2, length).cumsum(-1)
    x_hat = x + 0.3 * torch.randn(3, 2, length)
    loss = MultiResolutionSTFT(windows)(x_hat, x)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(by_scipy(x_hat, x, windows), rel=1e-4)
    loss = MultiResolutionSTFT(windows)(x_hat.double(), x.double())
    assert loss.item() == pytest.approx(by_scipy(x_hat, x, windows), rel=1e-10)


def test_window_longer_than_the_signal_is_shortened():
    x_hat, x = torch.randn(2, 3, 1, 50, dtype=torch.float64)
    assert MultiResolutionSTFT()(x_hat, x).item() == pytest.approx(by_scipy(x_hat, x, (32, 50)), rel=1e-10)
    x_hat, x = torch.randn(2, 3, 1, 4, dtype=torch.float64)
    assert MultiResolutionSTFT()(x_hat, x).item() == pytest.approx(by_scipy(x_hat, x, (4,)), rel=1e-10)


def test_stft_loss_rises_with_smoothing_and_ignores_the_sign():
    loss, x = MultiResolutionSTFT(), torch.randn(3, 1, 256)
    smooth = [torch.nn.functional.avg_pool1d(x, size, 1, size // 2) for size in (3, 9)]
    assert loss(x, x) == 0 == loss(-x, x)
    assert 0 < loss(smooth[0], x) < loss(smooth[1], x)


def test_derivative_loss_equals_numpy():
    x_hat, x = torch.randn(2, 3, 2, 100)
    difference = np.diff(x_hat.double().numpy()) - np.diff(x.double().numpy())
    assert derivative_loss(x_hat, x).item() == pytest.approx((difference**2).mean(), rel=1e-5)
    assert derivative_loss(x + 5, x).item() == pytest.approx(0, abs=1e-10)


LOSSES = [MultiResolutionSTFT((8, 16)), derivative_loss]


@pytest.mark.parametrize("loss", LOSSES, ids=["stft", "derivative"])
def test_gradients_equal_finite_differences(loss):
    x_hat, x = (s.requires_grad_() for s in torch.randn(2, 2, 1, 24, dtype=torch.float64))
    assert torch.autograd.gradcheck(loss, (x_hat, x))


@pytest.mark.parametrize("loss", LOSSES, ids=["stft", "derivative"])
@pytest.mark.parametrize("silent", ["x_hat", "x", "both"])
def test_gradients_are_finite_at_silence(loss, silent):
    x_hat, x = torch.randn(2, 2, 1, 64)
    if silent != "x":
        x_hat[0] = 0
    if silent != "x_hat":
        x.zero_()
    value = loss(x_hat.requires_grad_(), x)
    value.backward()
    assert value.isfinite()
    assert x_hat.grad.isfinite().all()
    reconstructed = x.clone().requires_grad_()
    loss(reconstructed, x).backward()
    assert (reconstructed.grad == 0).all()


@pytest.mark.parametrize("loss", LOSSES, ids=["stft", "derivative"])
def test_half_precision_is_cast_to_float32(loss):
    x_hat, x = torch.randn(2, 2, 1, 64).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(x_hat, x)
    assert value.dtype == torch.float32
    assert value == loss(x_hat.float(), x.float())


@pytest.mark.parametrize("windows", [(3,), (64, 0), (64.0,)])
def test_invalid_windows_are_refused(windows):
    with refused("windows must be", "at least 4"):
        MultiResolutionSTFT(windows)
