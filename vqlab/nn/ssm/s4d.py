"""S4D (Gu et al. 2022, arXiv:2206.11893): a diagonal state-space model for each channel of a signal."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.precision import KeepsFloat32, like_input, without_autocast
from vqlab.nn.ssm import kernel as ssm
from vqlab.nn.ssm.kernel import Init, Modes, Rule
from vqlab.validation import Checked, Count, Positive

SCAN_FROM = 2048  # samples from which chunks are faster than an FFT, which serves both directions at once


class S4D(Checked, KeepsFloat32):
    """y = x * K + D x, with a long kernel K for each channel from ``d_state`` / 2 damped oscillations.

    dx/dt = A x + u, y = 2 Re C x, A diagonal with negative real parts, sampled at a step of its own for each channel.
    The same weights run as a convolution of any length (:meth:`forward`), piece by piece (:meth:`resume`), and sample
    by sample (:meth:`step`), always in float32 or float64, even under autocast or in a model cast to half precision.

    Args:
        d_model: Channels, H.
        d_state: Modes of a channel with their conjugates, N; even.
        init: ``lin``, ``inv``, ``legs`` or ``real``, see :func:`~vqlab.nn.ssm.kernel.initial_modes`.
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
        neg_re, im, b = ssm.initial_modes(init, modes)
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
            return ssm.kernel(c, modes, length) if self.bidirectional else ssm.kernel(c, modes, length)[0]

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
            y, state = ssm.scan_convolve(u, (c[0][0], c[1][0]), modes, state)
            y = y + self.d[:, None] * u
        return like_input(y, x), state

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One sample (B, H) and the state (B, H, N) before it to a sample and the state after it."""
        self._check_causal(state)
        with without_autocast(x_t.device):
            modes, c = self._discrete()
            u = x_t.to(self.d.dtype)
            re, im = ssm.advance(state, ssm.power(modes, 1)).chunk(2, -1)
            re = re + u[..., None]
            y = 2 * ssm.multiply((c[0][0], c[1][0]), (re, im))[0].sum(-1)
            y, state = y + self.d * u, torch.cat([re, im], -1)
        return like_input(y, x_t), state

    def _discrete(self) -> tuple[Modes, tuple[Tensor, Tensor]]:
        """Return the modes, and C times the input's weight (directions, H, M)."""
        dt = self.log_dt.exp()[:, None]
        modes, b = ssm.discretize(self.log_neg_re.exp(), self.im, dt, self.discretization)
        return modes, ssm.multiply((self.c_re, self.c_im), b)

    def _convolve(self, u: Tensor, modes: Modes, c: tuple[Tensor, Tensor]) -> Tensor:
        length = u.shape[-1]
        if self.convolution == "fft" or (self.convolution == "auto" and (self.bidirectional or length < SCAN_FROM)):
            return ssm.fft_convolve(u, ssm.kernel(c, modes, length))
        y = ssm.scan_convolve(u, (c[0][0], c[1][0]), modes)[0]
        if self.bidirectional:
            y = y + ssm.scan_convolve(u.flip(-1), (c[0][1], c[1][1]), modes)[0].flip(-1)
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
