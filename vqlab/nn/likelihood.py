"""How an image is distributed about what a decoder puts out: p(x | h).

Shapes: N images, C channels, H x W pixels. Log-probabilities are in nats and float32 whatever the precision of the
decoder, because differences of thousands of nats decide what a Metropolis step accepts.
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

AVERAGE = 0.01  # weight of a batch in the running mean, after the first hundred


class Likelihood(ConfigMixin, KeepsFloat32, ABC):
    """p(x | h), by way of the decoder's output for h.

    Shape:
        images and outputs (N, C, H, W); log-probabilities (N,).
    """

    @abstractmethod
    def observe(self, image: Tensor, value_range: ValueRange) -> Tensor:
        """Turn an image of the data, in ``value_range``, into what is modelled, x."""

    @abstractmethod
    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """Return ln p (N,) of ``x`` (N, C, H, W) given the decoder's ``output`` (N, C, H, W)."""

    @abstractmethod
    def expected(self, output: Tensor) -> Tensor:
        """Return the mean of x given ``output``."""

    @abstractmethod
    def image(self, x: Tensor, value_range: ValueRange) -> Tensor:
        """Turn x, or a mean of it, back into an image in ``value_range``."""

    def dequantize(self, x: Tensor, value_range: ValueRange) -> Tensor:
        """Spread x over the values that were rounded to it, where p is a density; the same x where it is not."""
        return x

    @abstractmethod
    def bits_per_dim(self, nll: Tensor, dims: int, value_range: ValueRange) -> Tensor:
        """Turn nats per image of ``dims`` numbers into bits per number of the images as they are stored."""

    def update(self, mse: Tensor) -> None:
        """Count a step, whose codes had the mean squared error ``mse`` (scalar, the same on all ranks)."""


class Gaussian(Likelihood):
    """N(x; output, sigma^2) for each number of the image.

    sigma decides how far an image may be from its reconstruction, and with it how the objective weighs pixels against
    codes, and what Metropolis steps accept. The best one is the root of the mean squared error (sigma-VAE, Rybkin et
    al. 2021, arXiv:2006.13202): a smaller one, such as 0.02 where the error is 0.1, makes the posterior a single code.

    Args:
        sigma: A number; an ``Anneal`` over the training steps; ``learned``, a parameter; or ``optimal``, the root of a
            running mean of the squared error.
        initial: Where ``learned`` starts, and where ``optimal`` stands until the first step.

    Raises:
        UserError: If a sigma is not above 0.

    Example:
        >>> x = torch.zeros(1, 1, 2, 2)
        >>> round(Gaussian(1.0).log_prob(x, x + 1).item(), 3)  # 4 (-1/2 - ln(2 pi) / 2)
        -5.676
    """

    def __init__(self, sigma: float | Anneal | Literal["learned", "optimal"] = "optimal", initial: float = 0.5) -> None:
        super().__init__()
        if isinstance(sigma, str) and sigma not in ("learned", "optimal"):
            raise UserError(
                f"sigma must be a number, an Anneal, learned or optimal, got {sigma!r}: set --model.likelihood.sigma"
            )
        for value in (*(() if isinstance(sigma, str) else extremes(sigma)), initial):
            if not 0 < value < math.inf:
                raise UserError(
                    f"sigma must be finite and above 0, got {value}: set --model.likelihood.sigma=optimal, or about "
                    "0.1 for images in [-1, 1]"
                )
        self.rule = sigma
        self.log_sigma = nn.Parameter(torch.tensor(float(initial)).log()) if sigma == "learned" else None
        self.steps: Tensor
        self.mse: Tensor  # running mean, of ``optimal``
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mse", torch.tensor(float(initial)) ** 2)

    @property
    def sigma(self) -> Tensor:
        """The standard deviation at the current step, a scalar in units of the value range."""
        if self.log_sigma is not None:
            return self.log_sigma.exp()
        return self.mse.sqrt() if isinstance(self.rule, str) else value_at(self.rule, self.steps)

    def observe(self, image: Tensor, value_range: ValueRange) -> Tensor:
        """The image itself."""
        return image

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """-(D / 2) ln(2 pi) - D ln sigma - |x - output|^2 / (2 sigma^2)."""
        # Residuals are squared and summed as they are: the products of an expanded square would cancel.
        error = (x.float() - output.float()).square().flatten(1).sum(1)
        sigma = self.sigma
        return -x[0].numel() * (sigma.log() + math.log(2 * math.pi) / 2) - error / (2 * sigma**2)

    def expected(self, output: Tensor) -> Tensor:
        """The output itself."""
        return output

    def image(self, x: Tensor, value_range: ValueRange) -> Tensor:
        """Return x itself."""
        return x

    def dequantize(self, x: Tensor, value_range: ValueRange) -> Tensor:
        """Return x plus uniform noise as wide as one of the 256 values that a number was stored as."""
        return x + (torch.rand_like(x) - 0.5) * _step(value_range, x.device)

    def bits_per_dim(self, nll: Tensor, dims: int, value_range: ValueRange) -> Tensor:
        """Nats of a density to bits of the 256 values that a number was stored as; a bound if x was dequantized."""
        return nll / (dims * math.log(2)) - _step(value_range, nll.device).log2().mean()

    def update(self, mse: Tensor) -> None:
        """Count a step, and average the error."""
        self.steps += 1
        # Without waiting for a GPU: a plain mean at first, then one that forgets.
        self.mse.lerp_(mse.detach().to(self.mse), (1 / self.steps).clamp_min(AVERAGE))


class Bernoulli(Likelihood):
    """Black-and-white images: each number is 1 with probability sigmoid(output).

    Images are binarised at half their range, so p is of the binary image, in any value range.

    Example:
        >>> x = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
        >>> round(Bernoulli().log_prob(x, torch.zeros(1, 1, 1, 2)).item(), 4)  # 2 ln(1 / 2)
        -1.3863
    """

    def observe(self, image: Tensor, value_range: ValueRange) -> Tensor:
        """1 where the image is brighter than half of its range, else 0."""
        return (image := value_range.decode(image)).gt(0.5).to(image.dtype)

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """Sum of x ln p + (1 - x) ln(1 - p)."""
        return -F.binary_cross_entropy_with_logits(output.float(), x.float(), reduction="none").flatten(1).sum(1)

    def expected(self, output: Tensor) -> Tensor:
        """The probability of white."""
        return output.sigmoid()

    def image(self, x: Tensor, value_range: ValueRange) -> Tensor:
        """Return x in ``value_range``."""
        return value_range.encode(x)

    def bits_per_dim(self, nll: Tensor, dims: int, value_range: ValueRange) -> Tensor:
        """Bits per binary pixel."""
        return nll / (dims * math.log(2))


def _step(value_range: ValueRange, device: torch.device) -> Tensor:
    """Width of one of the 256 values of a stored number, in the units of ``value_range``: (C or 1, 1, 1)."""
    black, white = (torch.full((1, 1, 1), value, device=device, dtype=torch.float32) for value in (0.0, 1.0))
    return (value_range.encode(white) - value_range.encode(black)) / 255
