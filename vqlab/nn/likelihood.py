"""The distribution of an image given the output of a decoder: p(x | h).

Shapes: N images, C channels, H x W pixels. Log-probabilities are in nats and float32 whatever the precision of the
decoder, because a Metropolis step depends on differences of sums of thousands of nats.
"""

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.anneal import Anneal, extremes, value_at
from vqlab.nn.precision import KeepsFloat32
from vqlab.nn.value_range import ValueRange
from vqlab.serialization import ConfigMixin
from vqlab.validation import Positive

AVERAGE = 0.01  # weight of a batch in the running mean, after the first hundred


class Likelihood(ConfigMixin, KeepsFloat32, ABC):
    """p(x | h), in terms of the decoder's output for h.

    Images and outputs are (N, C, H, W), log-probabilities (N,).
    """

    @abstractmethod
    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """Return ln p (N,) of ``x`` given the decoder's ``output``."""

    def observe(self, image: Tensor, value_range: ValueRange) -> Tensor:
        """Turn an image of the data, in ``value_range``, into the modelled variable x; default: the image itself."""
        return image

    def expected(self, output: Tensor) -> Tensor:
        """Return the mean of x given ``output``; default: the output itself."""
        return output

    def image(self, x: Tensor, value_range: ValueRange) -> Tensor:
        """Turn x, or a mean of it, back into an image in ``value_range``; default: x itself."""
        return x

    def dequantize(self, x: Tensor, value_range: ValueRange) -> Tensor:
        """Add the noise that undoes rounding to 8 bits, if p is a density; default: x itself."""
        return x

    def bits_per_dim(self, nll: Tensor, dims: int, value_range: ValueRange) -> Tensor:
        """Turn nats per image of ``dims`` numbers into bits per number of the stored images."""
        return nll / (dims * math.log(2))

    def update(self, mse: Tensor) -> None:
        """Count a training step with the mean squared error ``mse`` (scalar, the same on all ranks)."""


class Gaussian(Likelihood):
    """N(x; output, sigma^2) for each number of the image.

    The optimal sigma is the root of the mean squared error (sigma-VAE, Rybkin et al. 2021, arXiv:2006.13202): with a
    smaller one, such as 0.02 where the error is 0.1, the posterior collapses to a single code.

    Args:
        sigma: A number; an ``Anneal`` over the training steps; ``learned``, a parameter; or ``optimal``, the root of a
            running mean of the squared error.
        initial: Initial value of ``learned``, and value of ``optimal`` before the first step.

    Example:
        >>> x = torch.zeros(1, 1, 2, 2)
        >>> round(Gaussian(1.0).log_prob(x, x + 1).item(), 3)  # 4 (-1/2 - ln(2 pi) / 2)
        -5.676
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
        """The standard deviation at the current step, a scalar in units of the value range."""
        if self.log_sigma is not None:
            return self.log_sigma.exp()
        return self.mse.sqrt() if isinstance(self.rule, str) else value_at(self.rule, self.steps)

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """-(D / 2) ln(2 pi) - D ln sigma - |x - output|^2 / (2 sigma^2)."""
        error = (x.float() - output.float()).square().flatten(1).sum(1)  # as an expanded square its terms would cancel
        sigma = self.sigma
        return -x[0].numel() * (sigma.log() + math.log(2 * math.pi) / 2) - error / (2 * sigma**2)

    def dequantize(self, x: Tensor, value_range: ValueRange) -> Tensor:
        return x + (torch.rand_like(x) - 0.5) * _step(value_range, x.device)

    def bits_per_dim(self, nll: Tensor, dims: int, value_range: ValueRange) -> Tensor:
        """Turn the nats of a density into bits of the 256 stored values; a bound if x was dequantized."""
        return super().bits_per_dim(nll, dims, value_range) - _step(value_range, nll.device).log2().mean()

    def update(self, mse: Tensor) -> None:
        self.steps += 1
        # A plain mean at first, then an exponential one; computed without waiting for the GPU.
        self.mse.lerp_(mse.detach().to(self.mse), (1 / self.steps).clamp_min(AVERAGE))


class Bernoulli(Likelihood):
    """Black-and-white images: each number is 1 with probability sigmoid(output).

    Images are binarised at half of their value range.

    Example:
        >>> x = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
        >>> round(Bernoulli().log_prob(x, torch.zeros(1, 1, 1, 2)).item(), 4)  # 2 ln(1 / 2)
        -1.3863
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
    """Width of one of the 256 values of a stored number, in the units of ``value_range``: (C or 1, 1, 1)."""
    black, white = (torch.full((1, 1, 1), value, device=device, dtype=torch.float32) for value in (0.0, 1.0))
    return (value_range.encode(white) - value_range.encode(black)) / 255
