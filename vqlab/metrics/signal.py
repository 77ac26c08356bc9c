"""Distances of reconstructed signals: x_hat and x (B, C, L) -> (B, C)."""

import torch
from torch import Tensor

TINY = 1e-8
WINDOW, HOP = 64, 16  # samples, of the spectral distance


def snr(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return the signal-to-noise ratio in dB: 10 log10 of the signal's variance over the mean squared error."""
    power = (x - x.mean(-1, keepdim=True)).square().mean(-1)
    return 10 * ((power + TINY) / ((x_hat - x).square().mean(-1) + TINY)).log10()


def prd(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return the percentage root-mean-square difference: 100 sqrt(sum (x - x_hat)^2 / sum (x - mean x)^2).

    This is 100 x 10^(-SNR / 20). The ECG literature calls it PRDN (normalised) where its PRD keeps the mean of x.
    """
    return 100 * 10 ** (-snr(x_hat, x) / 20)


def correlation(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return Pearson's correlation, 0 where either signal is constant."""
    a, b = (signal - signal.mean(-1, keepdim=True) for signal in (x_hat, x))
    size = a.square().sum(-1).sqrt() * b.square().sum(-1).sqrt()
    return torch.where(size > TINY, (a * b).sum(-1) / size.clamp_min(TINY), 0.0)


def spectral_convergence(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return | |S^| - |S| | / | S |, Frobenius norms of short-time spectra (Arik et al. 2018); sees smoothing."""
    window = torch.hann_window(min(WINDOW, x.shape[-1]), device=x.device)
    spectra = []
    for signal in (x_hat, x):
        frames = signal.float().unfold(-1, len(window), HOP) * window
        spectra.append(torch.fft.rfft(frames).abs().flatten(2))
    return (spectra[0] - spectra[1]).norm(dim=-1) / spectra[1].norm(dim=-1).clamp_min(TINY)
