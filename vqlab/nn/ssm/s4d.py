"""S4D (Gu et al. 2022, arXiv:2206.11893): a diagonal state-space model for each channel of a signal, in real numbers.

A channel has M complex modes. x_k drives each mode's state, s_k = w s_(k-1) + x_k, and y_k = 2 Re sum_m c_m s_k: the
modes' conjugates are left out, hence the 2. So y = x * K with the kernel K[l] = 2 Re sum_m c_m w_m^l.

Shapes: B signals, H channels, M modes, L samples. A complex array of M modes is two real ones, or one of 2 M: real
parts, then imaginary ones. No complex number type appears but inside the FFT.
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.precision import KeepsFloat32, like_input, without_autocast
from vqlab.validation import Checked, Count, Positive

Init = Literal["lin", "inv", "legs", "real"]
Rule = Literal["zoh", "bilinear"]
SMOOTH = (1, 3, 5, 9, 15)  # times powers of two: lengths at which an FFT is fast
CHUNK = 64
SCAN_FROM = 2048  # samples from which chunks are faster than an FFT, which serves both directions at once


class Modes(NamedTuple):
    """w = exp(decay + i phase) of each mode."""

    decay: Tensor  # ln |w|, below 0, (H, M)
    phase: Tensor  # arg w in radians per sample, (H, M)


class S4D(Checked, KeepsFloat32):
    """y = x * K + D x, with a long kernel K for each channel from ``d_state`` / 2 damped oscillations.

    dx/dt = A x + u, y = 2 Re C x, A diagonal with negative real parts, sampled at a step of its own for each channel.
    The same weights run as a convolution of any length (:meth:`forward`), piece by piece (:meth:`resume`), and sample
    by sample (:meth:`step`), always in float32 or float64, even under autocast or in a model cast to half precision.

    Args:
        d_model: Channels, H.
        d_state: Modes of a channel with their conjugates, N; even.
        init: ``lin``, ``inv``, ``legs`` or ``real``, see :func:`initial_modes`.
        discretization: ``zoh`` or ``bilinear``.
        bidirectional: Add an anticausal kernel: y = causal(x) + flip(causal'(flip(x))) + D x.
        dt_min: Smallest initial time step; the channels' steps are spread log-uniformly.
        dt_max: Largest initial time step.
        convolution: ``fft``; ``scan``, by chunks and without complex numbers; ``auto``: chunks for long causal signals.

    Example:
        >>> layer = S4D(4)
        >>> x = torch.randn(2, 4, 100)
        >>> y = layer(x)
        >>> state, rows = layer.initial_state(2), []
        >>> for x_t in x.unbind(-1):
        ...     y_t, state = layer.step(x_t, state)
        ...     rows.append(y_t)
        >>> torch.allclose(torch.stack(rows, -1), y, atol=1e-4)
        True
    """

    def __init__(
        self,
        d_model: Count,
        d_state: Count = 64,
        init: Init = "lin",
        discretization: Rule = "zoh",
        bidirectional: bool = False,
        dt_min: Positive = 1e-3,
        dt_max: Positive = 1e-1,
        convolution: Literal["auto", "fft", "scan"] = "auto",
    ) -> None:
        super().__init__()
        if d_state % 2:
            raise UserError(f"d_state must be even, got {d_state}")
        if dt_min > dt_max:
            raise UserError(f"dt_min must be at most dt_max {dt_max}, got {dt_min}")
        self.d_model, self.d_state, self.bidirectional = d_model, d_state, bidirectional
        self.discretization, self.convolution = discretization, convolution
        modes, directions = d_state // 2, 1 + bidirectional
        neg_re, im, b = initial_modes(init, modes)
        dtype = torch.get_default_dtype()
        self.log_dt = nn.Parameter(torch.empty(d_model).uniform_(math.log(dt_min), math.log(dt_max)))
        self.log_neg_re = nn.Parameter(neg_re.log().to(dtype).repeat(d_model, 1))
        self.im = nn.Parameter(im.to(dtype).repeat(d_model, 1), requires_grad=init != "real")
        # B is part of C: only their product counts. Variance 1 of a complex number.
        c = torch.randn(2, directions, d_model, modes) / math.sqrt(2) * b.to(dtype)
        self.c_re, self.c_im = nn.Parameter(c[0]), nn.Parameter(c[1])
        self.d = nn.Parameter(torch.randn(d_model))

    def ssm_parameters(self) -> list[nn.Parameter]:
        """Return the time steps and the modes, which train at a low rate and do not decay."""
        return [p for p in (self.log_dt, self.log_neg_re, self.im) if p.requires_grad]

    def forward(self, x: Tensor) -> Tensor:
        """Signals (B, H, L) to signals (B, H, L)."""
        self._check(x)
        with without_autocast(x.device):
            u = x.to(self.d.dtype)
            y = self.d[:, None] * u + self._convolve(u, *self._discrete())
        return like_input(y, x)

    def kernel(self, length: int) -> Tensor:
        """Return K (H, length), without D; with ``bidirectional`` (2, H, length), the second one anticausal."""
        with without_autocast(self.d.device):
            modes, c = self._discrete()
            return kernel(c, modes, length) if self.bidirectional else kernel(c, modes, length)[0]

    def initial_state(self, batch: int) -> Tensor:
        """Return the zero state, (batch, H, N): real parts of the modes, then imaginary ones."""
        return self.d.new_zeros(batch, self.d_model, self.d_state)

    def resume(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Signals (B, H, L) that continue from ``state`` (B, H, N) to signals and the state after them."""
        self._check(x)
        self._check_causal(state)
        with without_autocast(x.device):
            modes, c = self._discrete()
            u = x.to(self.d.dtype)
            y, state = scan_convolve(u, (c[0][0], c[1][0]), modes, state)
            y = y + self.d[:, None] * u
        return like_input(y, x), state

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One sample (B, H) and the state (B, H, N) before it to a sample and the state after it."""
        self._check_causal(state)
        with without_autocast(x_t.device):
            modes, c = self._discrete()
            u = x_t.to(self.d.dtype)
            re, im = advance(state, power(modes, 1)).chunk(2, -1)
            re = re + u[..., None]
            y = 2 * multiply((c[0][0], c[1][0]), (re, im))[0].sum(-1)
            y, state = y + self.d * u, torch.cat([re, im], -1)
        return like_input(y, x_t), state

    def _discrete(self) -> tuple[Modes, tuple[Tensor, Tensor]]:
        """Return the modes, and C times the input's weight (directions, H, M)."""
        dt = self.log_dt.exp()[:, None]
        modes, b = discretize(self.log_neg_re.exp(), self.im, dt, self.discretization)
        return modes, multiply((self.c_re, self.c_im), b)

    def _convolve(self, u: Tensor, modes: Modes, c: tuple[Tensor, Tensor]) -> Tensor:
        length = u.shape[-1]
        if self.convolution == "fft" or (self.convolution == "auto" and (self.bidirectional or length < SCAN_FROM)):
            return fft_convolve(u, kernel(c, modes, length))
        y = scan_convolve(u, (c[0][0], c[1][0]), modes)[0]
        if self.bidirectional:
            y = y + scan_convolve(u.flip(-1), (c[0][1], c[1][1]), modes)[0].flip(-1)
        return y

    def _check(self, x: Tensor) -> None:
        if x.ndim != 3 or x.shape[1] != self.d_model or not x.is_floating_point() or not x.shape[-1]:
            hint = ": is it (B, L, H)?" if x.ndim == 3 and x.shape[2] == self.d_model else ""
            raise UserError(f"S4D takes real signals (B, {self.d_model}, L), got {x.dtype} {tuple(x.shape)}{hint}")

    def _check_causal(self, state: Tensor) -> None:
        if self.bidirectional:
            raise UserError("a bidirectional S4D needs the whole signal at once: build it with bidirectional=False")
        if state.shape[1:] != (self.d_model, self.d_state):
            raise UserError(
                f"the state must be (B, {self.d_model}, {self.d_state}), got {tuple(state.shape)}: see initial_state"
            )


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
