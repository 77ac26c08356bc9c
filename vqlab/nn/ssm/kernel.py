"""Diagonal state-space models in real arithmetic: the modes, their kernel, and two ways to convolve with it.

A channel has M complex modes. x_k drives each mode's state, s_k = w s_(k-1) + x_k, and y_k = 2 Re sum_m c_m s_k: the
modes' conjugates are left out, hence the 2. So y = x * K with the kernel K[l] = 2 Re sum_m c_m w_m^l.

Shapes: B signals, H channels, M modes, L samples. A complex array of M modes is two real ones, or one of 2 M: real
parts, then imaginary ones. No complex number type appears but inside the FFT.
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Init = Literal["lin", "inv", "legs", "real"]
Rule = Literal["zoh", "bilinear"]
SMOOTH = (1, 3, 5, 9, 15)  # times powers of two: lengths at which an FFT is fast
CHUNK = 64


class Modes(NamedTuple):
    """w = exp(decay + i phase) of each mode."""

    decay: Tensor  # ln |w|, below 0, (H, M)
    phase: Tensor  # arg w in radians per sample, (H, M)


def initial_modes(init: Init, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return -Re A, Im A and the size of B (count,) float64 of the modes that a channel starts with.

    N = 2 ``count``. ``lin``: A_n = -1/2 + i pi n; ``inv``: A_n = -1/2 + i (N / pi) (N / (2n + 1) - 1); ``legs``: the
    eigenvalues of the normal part of HiPPO-LegS; ``real``: A_n = -(n + 1) (Gu et al. 2022, arXiv:2206.11893, section
    4.2). B is 1, for ``legs`` |V* B|: its phase would vanish in that of a random C.
    """
    n = torch.arange(count, dtype=torch.float64)
    half, one = torch.full_like(n, 0.5), torch.ones_like(n)
    match init:
        case "lin":
            return half, math.pi * n, one
        case "inv":
            return half, 2 * count / math.pi * (2 * count / (2 * n + 1) - 1), one
        case "real":
            return n + 1, 0 * n, one
        case "legs":
            n = torch.arange(2 * count, dtype=torch.float64)
            b = (2 * n + 1).sqrt()
            low = (b[:, None] * b).tril(-1) / 2  # A + A^T = -b b^T - 1, so A + b b^T / 2 + 1/2 is skew
            values, vectors = torch.linalg.eigh(1j * (low - low.T))  # i times skew is Hermitian
            positive = values > 0
            return half, values[positive], (vectors[:, positive].conj().T @ b.to(vectors.dtype)).abs()


def discretize(neg_re: Tensor, im: Tensor, dt: Tensor, rule: Rule) -> tuple[Modes, tuple[Tensor, Tensor]]:
    """Return the modes of dx/dt = A x + u sampled every ``dt`` (H, 1), and the input's weight, real and imaginary.

    A = -``neg_re`` + i ``im``, (H, M). ``zoh``: w = exp(dt A), B = (w - 1) / A; ``bilinear``:
    w = (1 + dt A / 2) / (1 - dt A / 2), B = dt / (1 - dt A / 2).
    """
    r, i = -dt * neg_re, dt * im
    if rule == "zoh":
        # w - 1 without cancellation: cos i - 1 = -2 sin^2(i / 2)
        re = torch.expm1(r) * i.cos() - 2 * (i / 2).sin().square()
        return Modes(r, i), divide(dt, (re, r.exp() * i.sin()), (r, i))
    up, down, side = 1 + r / 2, 1 - r / 2, i / 2
    decay = torch.log1p(2 * r / (down.square() + side.square())) / 2
    modes = Modes(decay, torch.atan2(side, up) + torch.atan2(side, down))
    return modes, divide(dt, (torch.ones_like(r), torch.zeros_like(r)), (down, -side))


def powers(modes: Modes, exponents: Tensor) -> tuple[Tensor, Tensor]:
    """Return w^k, real and imaginary (H, M, n), for n ``exponents``."""
    size = (modes.decay[..., None] * exponents).exp()
    turn = modes.phase[..., None] * exponents
    return size * turn.cos(), size * turn.sin()


def kernel(c: tuple[Tensor, Tensor], modes: Modes, length: int) -> Tensor:
    """Return K[l] = 2 Re sum_m c_m w_m^l for l < length, (..., H, length), of ``c``, real and imaginary (..., H, M).

    With l = a T + b and T about sqrt(length), w^l = w^(aT) w^b: two tables of M sqrt(length) powers and one real matrix
    product per channel, where the plain formula takes M * length powers and as much memory.
    """
    width = 2 ** math.ceil(math.log2(length) / 2)
    steps = torch.arange(width, device=c[0].device, dtype=c[0].dtype)
    coarse = powers(modes, width * steps[: -(-length // width)])
    re, im = multiply((c[0][..., None], c[1][..., None]), coarse)
    left = torch.cat([re, -im], -2)
    return 2 * (left.transpose(-1, -2) @ torch.cat(powers(modes, steps), -2)).flatten(-2)[..., :length]


def fft_convolve(x: Tensor, kernels: Tensor) -> Tensor:
    """Convolve x (B, H, L) with a causal kernel (1, H, L), or a causal and an anticausal one (2, H, L).

    The anticausal one runs against time: y_k += sum_j K[j] x_(k+j).
    """
    length = x.shape[-1]
    size = min(m * 2 ** math.ceil(math.log2(max(1, (2 * length - 1) / m))) for m in SMOOTH)
    two_sided = F.pad(kernels[0], (0, size - length))
    if len(kernels) == 2:
        forward, backward = kernels
        ends = [forward[:, :1] + backward[:, :1], forward[:, 1:]]
        gap = forward.new_zeros(len(forward), size - 2 * length + 1)
        two_sided = torch.cat([*ends, gap, backward[:, 1:].flip(-1)], -1)
    return torch.fft.irfft(torch.fft.rfft(x, n=size) * torch.fft.rfft(two_sided, n=size), n=size)[..., :length]


def scan_convolve(
    x: Tensor, c: tuple[Tensor, Tensor], modes: Modes, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Convolve x (B, H, L) with the causal kernel of ``c`` (H, M) chunk by chunk; return y and the last state.

    Within a chunk the kernel is a triangular matrix; the states (B, H, 2 M) connect the chunks, from ``state`` before
    the first sample, 0 if None. All but their recurrence is matrix products.
    """
    (batch, channels, length), width = x.shape, min(CHUNK, x.shape[-1])
    count = -(-length // width)
    chunks = F.pad(x, (0, count * width - length)).view(batch, channels, count, width).transpose(0, 1)
    steps = torch.arange(width, device=x.device, dtype=x.dtype)
    into = torch.cat(powers(modes, width - 1 - steps), 1).mT  # (H, width, 2 M): a sample's part in a chunk's last state
    driven = (chunks[:, :, :-1].flatten(1, 2) @ into).view(channels, batch, count - 1, into.shape[2])
    states, chunk = [x.new_zeros(batch, *into.shape[::2]) if state is None else state], power(modes, width)
    for part in driven.unbind(2):
        states.append(advance(states[-1], chunk) + part.transpose(0, 1))
    # What comes out of a chunk's samples, by a triangle of the kernel, and of the state before it.
    lag = (steps - steps[:, None]).long()
    triangle = kernel(c, modes, width)[:, lag.clamp_min(0)] * (lag >= 0)
    re, im = multiply((c[0][..., None], c[1][..., None]), powers(modes, steps + 1))
    out_of = torch.cat([triangle, 2 * re, -2 * im], 1)  # (H, width + 2 M, width)
    y = torch.cat([chunks, torch.stack(states, 2).transpose(0, 1)], -1).flatten(1, 2) @ out_of
    rest = length - (count - 1) * width  # samples of the last chunk
    last = chunks[:, :, -1, :rest] @ into[:, width - rest :]
    y = y.view(channels, batch, -1)[..., :length].transpose(0, 1)
    return y, advance(states[-1], power(modes, rest)) + last.transpose(0, 1)


def power(modes: Modes, steps: int) -> tuple[Tensor, Tensor]:
    """Return w^steps, real and imaginary (H, M)."""
    re, im = powers(modes, modes.decay.new_tensor([float(steps)]))
    return re[..., 0], im[..., 0]


def advance(state: Tensor, by: tuple[Tensor, Tensor]) -> Tensor:
    """Return states (B, H, 2 M) multiplied with ``by`` (H, M), a power of w: the states later, without input."""
    re, im = state.chunk(2, -1)
    return torch.cat(multiply(by, (re, im)), -1)


def multiply(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the complex product, real and imaginary."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def divide(factor: Tensor, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return ``factor`` times the complex quotient a / b, real and imaginary."""
    size = b[0].square() + b[1].square()
    return factor * ((a[0] * b[0] + a[1] * b[1]) / size), factor * ((a[1] * b[0] - a[0] * b[1]) / size)
