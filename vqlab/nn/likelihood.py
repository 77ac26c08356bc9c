"""Distributions p(x | h) of an image given the output of a decoder, in nats and float32."""

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.anneal import Anneal, extremes, value_at
from vqlab.nn.image_format import ValueRange
from vqlab.nn.precision import KeepsFloat32
from vqlab.serialization import ConfigMixin
from vqlab.validation import Positive

AVERAGE = 0.1  # weight of a batch in the running mean after the first ten batches


class Likelihood(ConfigMixin, KeepsFloat32, ABC):
    """p(x | h) given the decoder's output for h.

    Images and outputs are (N, C, H, W), log-probabilities (N,).
    """

    @abstractmethod
    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """Return ln p (N,) of ``x`` given the decoder's ``output``."""

    def observe(self, image: Tensor, value_range: ValueRange) -> Tensor:
        """Convert an image in ``value_range`` to the modelled variable x. Default: the image."""
        return image

    def expected(self, output: Tensor) -> Tensor:
        """Return the mean of x given ``output``. Default: the output."""
        return output

    def image(self, x: Tensor, value_range: ValueRange) -> Tensor:
        """Convert x, or its mean, to an image in ``value_range``. Default: x."""
        return x

    def dequantize(self, x: Tensor, value_range: ValueRange) -> Tensor:
        """Add the uniform noise that undoes rounding to 8 bits, if p is a density. Default: x."""
        return x

    def bits_per_dim(self, nll: Tensor, dims: int, value_range: ValueRange) -> Tensor:
        """Convert nats per image with ``dims`` values to bits per value."""
        return nll / (dims * math.log(2))

    def update(self, mse: Tensor) -> None:
        """Count a training step with the mean squared error ``mse``, a scalar that is equal on all ranks."""


class Gaussian(Likelihood):
    """N(x; output, sigma^2) for each value; if sigma is far below the RMS error, the posterior has only one code.

    Args:
        sigma: A number; an ``Anneal`` over the training steps; ``learned``, a parameter; or ``optimal``, the square
            root of a running mean of the squared error (sigma-VAE, Rybkin et al. 2021, arXiv:2006.13202).
        initial: Initial value of ``learned``, and value of ``optimal`` before the first step.

    Example:
        >>> Gaussian(1.0).log_prob(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))  # 4 (-1/2 - ln(2 pi) / 2)
        tensor([-5.6758])
    """

    steps: Tensor
    mse: Tensor  # running mean, of ``optimal``

    def __init__(
        self, sigma: Positive | Anneal | Literal["learned", "optimal"] = "optimal", initial: Positive = 0.5
    ) -> None:
        super().__init__()
        if isinstance(sigma, Anneal) and min(extremes(sigma)) <= 0:
            raise UserError(f"sigma must be above 0, got an Anneal from {sigma.start} to {sigma.end}")
        self.rule = sigma
        self.log_sigma = nn.Parameter(torch.tensor(float(initial)).log()) if sigma == "learned" else None
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mse", torch.tensor(float(initial)) ** 2)

    @property
    def sigma(self) -> Tensor:
        """The standard deviation at the current step, a scalar in the units of x."""
        if self.log_sigma is not None:
            return self.log_sigma.exp()
        return self.mse.sqrt() if isinstance(self.rule, str) else value_at(self.rule, self.steps)

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """-(D / 2) ln(2 pi) - D ln sigma - |x - output|^2 / (2 sigma^2)."""
        error = (x.float() - output.float()).square().flatten(1).sum(1)  # not expanded: terms cancel
        sigma = self.sigma
        return -x[0].numel() * (sigma.log() + math.log(2 * math.pi) / 2) - error / (2 * sigma**2)

    def dequantize(self, x: Tensor, value_range: ValueRange) -> Tensor:
        return x + (torch.rand_like(x) - 0.5) * _step(value_range, x.device)

    def bits_per_dim(self, nll: Tensor, dims: int, value_range: ValueRange) -> Tensor:
        """Convert the nats of a density to bits per 8-bit value; an upper bound if x was dequantized."""
        return super().bits_per_dim(nll, dims, value_range) - _step(value_range, nll.device).log2().mean()

    def update(self, mse: Tensor) -> None:
        self.steps += 1
        self.mse.lerp_(mse.detach().to(self.mse), (1 / self.steps).clamp_min(AVERAGE))  # first a plain mean


class Bernoulli(Likelihood):
    """Images binarised at the middle of their value range: each value is 1 with probability sigmoid(output).

    Example:
        >>> Bernoulli().log_prob(torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 2))  # 2 ln(1 / 2)
        tensor([-1.3863])
    """

    def observe(self, image: Tensor, value_range: ValueRange) -> Tensor:
        return value_range.decode(image).gt(0.5).to(image.dtype)

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """Sum of x ln p + (1 - x) ln(1 - p)."""
        return -F.binary_cross_entropy_with_logits(output.float(), x.float(), reduction="none").flatten(1).sum(1)

    def expected(self, output: Tensor) -> Tensor:
        return output.sigmoid()

    def image(self, x: Tensor, value_range: ValueRange) -> Tensor:
        return value_range.encode(x)


def _step(value_range: ValueRange, device: torch.device) -> Tensor:
    """Return the distance of adjacent 8-bit values in ``value_range``, (C or 1, 1, 1)."""
    ends = torch.tensor([0.0, 1.0], dtype=torch.float32, device=device).view(2, 1, 1, 1)
    return value_range.encode(ends).diff(dim=0)[0] / 255
