"""S4D (Gu et al. 2022, arXiv:2206.11893): a diagonal state-space model for each channel of a signal.

A channel has M complex modes, s_k = w s_(k-1) + x_k and y_k = 2 Re sum_m c_m s_k (2 Re adds the conjugate modes), so
y = x * K with the kernel K[l] = 2 Re sum_m c_m w_m^l. Shapes: B signals, H channels, M modes, L samples. Complex arrays
are pairs of real ones, or real parts followed by imaginary parts (2 M modes): compilers do not fuse complex numbers.
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


class Modes(NamedTuple):
    """The modes w = exp(decay + i phase)."""

    decay: Tensor  # ln |w| < 0, (H, M)
    phase: Tensor  # arg w in radians per sample, (H, M)


class S4D(Checked, KeepsFloat32):
    """y = x * K + D x, with a long kernel K for each channel from ``d_state`` / 2 damped oscillations.

    dx/dt = A x + u, y = 2 Re C x, with A diagonal with negative real parts, and a learned time step for each channel.
    The same weights run as a convolution (:meth:`forward`), segment by segment (:meth:`resume`) and sample by sample
    (:meth:`step`), in float32 or float64 also under autocast or in a model that was cast to half precision.

    Args:
        d_model: Channels, H.
        d_state: Modes of a channel including their conjugates, N; even.
        init: ``lin``, ``inv``, ``legs`` or ``real``, see :func:`initial_modes`.
        discretization: ``zoh`` or ``bilinear``.
        bidirectional: Add an anticausal kernel: y = causal(x) + flip(causal'(flip(x))) + D x.
        dt_min: Smallest initial time step; those of the channels are log-uniform.
        dt_max: Largest initial time step.

    Example:
        >>> layer, x = S4D(4), torch.randn(2, 4, 100)
        >>> y_0, state = layer.step(x[..., 0], layer.initial_state(2))
        >>> torch.allclose(y_0, layer(x)[..., 0], atol=1e-4)
        True
    """

    scan_from = 2048  # samples from which a causal convolution is faster in chunks than by an FFT
    # A length L: K[l] is multiplied by max(0, 1 - l / L), which is the mean of the outputs of all windows of L samples
    # that contain a sample. For signals longer than those of the training, in which later lags never occurred.
    taper: int | None = None

    def __init__(
        self,
        d_model: Count,
        d_state: Count = 64,
        init: Init = "lin",
        discretization: Rule = "zoh",
        bidirectional: bool = False,
        dt_min: Positive = 1e-3,
        dt_max: Positive = 1e-1,
    ) -> None:
        super().__init__()
        if d_state % 2:
            raise UserError(f"d_state must be even, got {d_state}")
        if dt_min > dt_max:
            raise UserError(f"dt_min must be at most dt_max {dt_max}, got {dt_min}")
        self.d_model, self.d_state, self.bidirectional = d_model, d_state, bidirectional
        self.discretization = discretization
        modes, directions = d_state // 2, 1 + bidirectional
        neg_re, im, b = initial_modes(init, modes)
        dtype = torch.get_default_dtype()
        self.log_dt = nn.Parameter(torch.empty(d_model).uniform_(math.log(dt_min), math.log(dt_max)))
        self.log_neg_re = nn.Parameter(neg_re.log().to(dtype).repeat(d_model, 1))
        self.im = nn.Parameter(im.to(dtype).repeat(d_model, 1), requires_grad=init != "real")
        # Only the product of B and C matters, so B is part of C; a complex number has variance 1.
        c = torch.randn(2, directions, d_model, modes) / math.sqrt(2) * b.to(dtype)
        self.c_re, self.c_im = nn.Parameter(c[0]), nn.Parameter(c[1])
        self.d = nn.Parameter(torch.randn(d_model))

    def ssm_parameters(self) -> list[nn.Parameter]:
        """Return the time steps and the modes, which need a low learning rate and no weight decay."""
        return [p for p in (self.log_dt, self.log_neg_re, self.im) if p.requires_grad]

    def forward(self, x: Tensor) -> Tensor:
        """Signals (B, H, L) to signals (B, H, L)."""
        self._check(x)
        with without_autocast(x.device):
            u, (c, modes), length = x.to(self.d.dtype), self._discrete(), x.shape[-1]
            if self.taper is not None:
                finite = tapered(kernel(c, modes, self.taper))[..., :length]
                y = fft_convolve(u, F.pad(finite, (0, length - finite.shape[-1])))
            elif self.bidirectional or length < self.scan_from:
                y = fft_convolve(u, kernel(c, modes, length))
            else:
                y, _ = scan_convolve(u, c, modes)
        return like_input(y + self.d[:, None] * u, x)

    def kernel(self, length: int) -> Tensor:
        """Return K (H, length), without D; with ``bidirectional`` (2, H, length), the second anticausal."""
        with without_autocast(self.d.device):
            kernels = kernel(*self._discrete(), length)
        return kernels if self.bidirectional else kernels[0]

    def initial_state(self, batch: int) -> Tensor:
        """Return the zero state, (batch, H, N): real parts of the modes, then imaginary parts."""
        return self.d.new_zeros(batch, self.d_model, self.d_state)

    def resume(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Signals (B, H, L) and the state (B, H, N) before them to signals and the state after them."""
        self._check(x)
        self._check_causal(state)
        with without_autocast(x.device):
            u = x.to(self.d.dtype)
            y, state = scan_convolve(u, *self._discrete(), state)
        return like_input(y + self.d[:, None] * u, x), state

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One sample (B, H) and the state (B, H, N) before it to a sample and the state after it."""
        self._check_causal(state)
        with without_autocast(x_t.device):
            (c_re, c_im), modes = self._discrete()
            u = x_t.to(self.d.dtype)
            re, im = advance(state, power(modes, 1)).chunk(2, -1)
            re = re + u[..., None]
            y = 2 * (c_re[0] * re - c_im[0] * im).sum(-1) + self.d * u
        return like_input(y, x_t), torch.cat([re, im], -1)

    def _discrete(self) -> tuple[tuple[Tensor, Tensor], Modes]:
        """Return C times the weight of the input (directions, H, M), and the modes."""
        dt = self.log_dt.exp()[:, None]
        modes, b = discretize(self.log_neg_re.exp(), self.im, dt, self.discretization)
        return multiply((self.c_re, self.c_im), b), modes

    def _check(self, x: Tensor) -> None:
        if x.ndim != 3 or x.shape[1] != self.d_model or not x.is_floating_point() or not x.shape[-1]:
            hint = ": is it (B, L, H)?" if x.ndim == 3 and x.shape[2] == self.d_model else ""
            raise UserError(f"S4D takes real signals (B, {self.d_model}, L), got {x.dtype} {tuple(x.shape)}{hint}")

    def _check_causal(self, state: Tensor) -> None:
        if self.bidirectional:
            raise UserError("a bidirectional S4D needs the whole signal: build it with bidirectional=False")
        if state.shape[1:] != (self.d_model, self.d_state):
            expected = f"(B, {self.d_model}, {self.d_state})"
            raise UserError(f"the state must be {expected}, got {tuple(state.shape)}: see initial_state")


def initial_modes(init: Init, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return -Re A, Im A and |B|, each (count,) float64, of the initial modes of a channel.

    N = 2 ``count``. ``lin``: A_n = -1/2 + i pi n; ``inv``: A_n = -1/2 + i (N / pi) (N / (2n + 1) - 1); ``legs``: the
    eigenvalues of the normal part of HiPPO-LegS; ``real``: A_n = -(n + 1) (section 4.2). B is 1, for ``legs`` |V* B|.
    """
    n = torch.arange(count, dtype=torch.float64)
    half, one = torch.full_like(n, 0.5), torch.ones_like(n)
    if init == "lin":
        return half, math.pi * n, one
    if init == "inv":
        return half, 2 * count / math.pi * (2 * count / (2 * n + 1) - 1), one
    if init == "real":
        return n + 1, 0 * n, one
    b = (2 * torch.arange(2 * count, dtype=torch.float64) + 1).sqrt()
    low = (b[:, None] * b).tril(-1) / 2  # A + A^T = -b b^T - 1, so A + b b^T / 2 + 1/2 is skew
    values, vectors = torch.linalg.eigh(1j * (low - low.T))  # i times skew is Hermitian
    positive = values > 0
    return half, values[positive], (vectors[:, positive].conj().T @ b.to(vectors.dtype)).abs()


def discretize(neg_re: Tensor, im: Tensor, dt: Tensor, rule: Rule) -> tuple[Modes, tuple[Tensor, Tensor]]:
    """Return the modes of dx/dt = A x + u at the time step ``dt`` (H, 1), and the weight of the input.

    A = -``neg_re`` + i ``im``, (H, M). ``zoh``: w = exp(dt A), B = (w - 1) / A; ``bilinear``:
    w = (1 + dt A / 2) / (1 - dt A / 2), B = dt / (1 - dt A / 2).
    """
    r, i = -dt * neg_re, dt * im
    if rule == "zoh":
        # w - 1 without cancellation by cos i - 1 = -2 sin^2(i / 2)
        re = torch.expm1(r) * i.cos() - 2 * (i / 2).sin().square()
        return Modes(r, i), divide(dt, (re, r.exp() * i.sin()), (r, i))
    up, down, side = 1 + r / 2, 1 - r / 2, i / 2
    decay = torch.log1p(2 * r / (down.square() + side.square())) / 2
    modes = Modes(decay, torch.atan2(side, up) + torch.atan2(side, down))
    return modes, divide(dt, (torch.ones_like(r), torch.zeros_like(r)), (down, -side))


def powers(modes: Modes, exponents: Tensor) -> tuple[Tensor, Tensor]:
    """Return w^k (H, M, n) for n ``exponents`` k."""
    size = (modes.decay[..., None] * exponents).exp()
    turn = modes.phase[..., None] * exponents
    return size * turn.cos(), size * turn.sin()


def kernel(c: tuple[Tensor, Tensor], modes: Modes, length: int) -> Tensor:
    """Return K[l] = 2 Re sum_m c_m w_m^l for l < length, (..., H, length), with ``c`` (..., H, M).

    With l = a T + b and T about sqrt(length), w^l = w^(aT) w^b: two small tables of powers and one matrix product.
    """
    width = 2 ** math.ceil(math.log2(length) / 2)
    steps = torch.arange(width, device=c[0].device, dtype=c[0].dtype)
    coarse = powers(modes, width * steps[: -(-length // width)])
    re, im = multiply((c[0][..., None], c[1][..., None]), coarse)
    left = torch.cat([re, -im], -2)
    return 2 * (left.transpose(-1, -2) @ torch.cat(powers(modes, steps), -2)).flatten(-2)[..., :length]


def tapered(kernels: Tensor) -> Tensor:
    """Return K[l] (1 - l / L) of kernels (..., L)."""
    length = kernels.shape[-1]
    return kernels * (1 - torch.arange(length, device=kernels.device, dtype=kernels.dtype) / length)


def fft_convolve(x: Tensor, kernels: Tensor) -> Tensor:
    """Convolve x (B, H, L) with a causal kernel, or with a causal and an anticausal one: (1 or 2, H, L)."""
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
    """Convolve x (B, H, L) with the causal kernel of ``c`` (1, H, M) in chunks; return y and the last state.

    Within a chunk the kernel is a triangular matrix; the states (B, H, 2 M) connect the chunks, from ``state`` or 0.
    """
    c = c[0][0], c[1][0]
    (batch, channels, length), width = x.shape, min(CHUNK, x.shape[-1])
    count = -(-length // width)
    chunks = F.pad(x, (0, count * width - length)).view(batch, channels, count, width).transpose(0, 1)
    steps = torch.arange(width, device=x.device, dtype=x.dtype)
    into = torch.cat(powers(modes, width - 1 - steps), 1).mT  # (H, width, 2 M): sample to last state of its chunk
    driven = (chunks[:, :, :-1].flatten(1, 2) @ into).view(channels, batch, count - 1, into.shape[2])
    states, chunk = [x.new_zeros(batch, *into.shape[::2]) if state is None else state], power(modes, width)
    for part in driven.unbind(2):
        states.append(advance(states[-1], chunk) + part.transpose(0, 1))
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
    """Return w^steps (H, M)."""
    re, im = powers(modes, modes.decay.new_tensor([float(steps)]))
    return re[..., 0], im[..., 0]


def advance(state: Tensor, by: tuple[Tensor, Tensor]) -> Tensor:
    """Return states (B, H, 2 M) times ``by`` (H, M), a power of w: the later states without input."""
    re, im = state.chunk(2, -1)
    return torch.cat(multiply(by, (re, im)), -1)


def multiply(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the complex product a b."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def divide(factor: Tensor, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the complex quotient a / b times ``factor``."""
    size = b[0].square() + b[1].square()
    return factor * ((a[0] * b[0] + a[1] * b[1]) / size), factor * ((a[1] * b[0] - a[0] * b[1]) / size)
