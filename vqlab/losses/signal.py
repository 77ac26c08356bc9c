"""Losses of signals: x_hat and x (B, C, L) -> a scalar."""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.nn.precision import upcast, without_autocast
from vqlab.validation import Checked, Range

FLOOR = 1e-7  # added to the power |S|^2: logarithm and square root are finite, and smooth at silence


class MultiResolutionSTFT(Checked, nn.Module):
    """The multi-resolution STFT loss of Parallel WaveGAN (Yamamoto et al. 2020, arXiv:1910.11480).

    The mean over window sizes of spectral convergence + log-magnitude distance. A squared error is lowest for a smooth
    reconstruction; this loss compares how much of each frequency there is, whatever the phase. Spectra have a periodic
    Hann window, a hop of a quarter of it, and reflected ends. As in the published implementations the norms are over
    the whole batch, so that one silent signal does not dominate. Computed in float32 or float64, also under autocast.

    Args:
        windows: Window sizes in samples, at least 4. A window longer than the signal is shortened to the signal's
            length, and equal sizes count once.

    Shape:
        x_hat and x (B, C, L), L at least 4 -> a scalar, at least 0.

    Raises:
        UserError: If a window is shorter than 4 samples.

    Example:
        >>> loss, x = MultiResolutionSTFT(), torch.sin(torch.arange(512) / 4).view(1, 1, 512)
        >>> loss(x, x).item(), loss(-x, x).item(), loss(x / 2, x).item() > 0.5
        (0.0, 0.0, True)
    """

    def __init__(self, windows: Sequence[Annotated[int, Range(4)]] = (32, 64, 128)) -> None:
        super().__init__()
        self.windows = tuple(windows)

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Return the loss of reconstructions ``x_hat`` of ``x``, (B, C, L) both."""
        sizes = sorted({min(size, x.shape[-1]) for size in self.windows})
        losses = []
        with without_autocast(x.device):
            for size in sizes:
                power_hat, power = spectral_power(upcast(x_hat), size), spectral_power(upcast(x), size)
                losses.append(spectral_convergence(power_hat, power) + log_magnitude_distance(power_hat, power))
        return torch.stack(losses).mean()


def spectral_power(x: Tensor, size: int) -> Tensor:
    """Return |S|^2 + FLOOR of the short-time spectra of ``x`` (B, C, L), (B * C, size // 2 + 1, frames)."""
    window = torch.hann_window(size, dtype=x.dtype, device=x.device)
    spectrum = torch.stft(x.flatten(0, 1), size, window=window, return_complex=True)
    return spectrum.real.square() + spectrum.imag.square() + FLOOR


def spectral_convergence(power_hat: Tensor, power: Tensor) -> Tensor:
    """Return | |S| - |S^| | / | |S| |, Frobenius norms over all elements."""
    magnitude = power.sqrt()
    return (magnitude - power_hat.sqrt()).norm() / magnitude.norm()


def log_magnitude_distance(power_hat: Tensor, power: Tensor) -> Tensor:
    """Return the mean of | ln |S| - ln |S^| | over all elements."""
    return F.l1_loss(power_hat.log() / 2, power.log() / 2)


def derivative_loss(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return the mean squared error of first differences along time, in float32 or float64; L at least 2.

    Example:
        >>> x = torch.tensor([[[0.0, 1.0, 3.0]]])
        >>> derivative_loss(x + 5, x).item(), derivative_loss(0 * x, x).item()  # (1^2 + 2^2) / 2
        (0.0, 2.5)
    """
    return F.mse_loss(upcast(x_hat).diff(dim=-1), upcast(x).diff(dim=-1))
