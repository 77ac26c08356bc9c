"""Gaussian quantization: a Gaussian bottleneck in training, fixed normal samples as codes after it."""

import math

import torch
from torch import Tensor, nn

from vqlab.quantizers.base import CodeStats, Quantizer, QuantizerOutput, Revival
from vqlab.quantizers.sampling import positions, step_seed, uniform_by_sample
from vqlab.quantizers.search import finite_rows, largest_product
from vqlab.validation import Count, NonNegative, Positive, check_arguments

WIDTH = 4  # hidden width of the network of the variance, in units of D
LOG_VARIANCE = (-30.0, 20.0)
RATE = 1.01  # factor of a multiplier per step
LOWEST, HIGHEST = (1e-6, 1.0, 1e-3), (1e6, 1e3, 1.0)  # bounds of the multipliers: of all rows, above, below


class GaussianQuantizer(Quantizer):
    """Train as a Gaussian VAE, and quantize to K fixed samples of the standard normal distribution (GQ).

    Xu et al. 2025, Vector Quantization using Gaussian Variational Autoencoder, arXiv:2512.06609. The input is the mean
    of the posterior q = N(z, s^2); a small network gives log s^2 from it. In training quantized is a sample of q, and
    the target divergence constraint holds KL(q || N(0, 1)) of each row near log2 K bits:
    loss = kl_weight * m * mean(w KL), where w is m_above for rows more than ``tolerance`` bits above the target,
    m_below for those below, else 1. At each step m rises by 1 % if the mean is above the target, m_above if a row is
    above, and m_below falls if a row is below; otherwise they return by 1 %.

    In eval mode quantized is the code e_k of the largest q(e_k) / N(e_k; 0, 1), as in the authors' program. The
    codebook is drawn from ``seed``, so a state dict holds none, and ``num_embeddings`` may be set to any number after
    training; the first codes of a larger codebook are those of a smaller one. More codes lower the error.

    Args:
        num_embeddings: Number of codes, K. About one bit per channel, K = 2^D, keeps all codes in use.
        embedding_dim: Channels, D. For several codes per position use a ``ProductQuantizer``.
        kl_weight: Weight of the divergence, in bits, at the start; m adapts it.
        tolerance: Distance from the target, in bits, that is not corrected.
        seed: Seed of the codebook and of the samples.

    Example:
        >>> quantizer = GaussianQuantizer(256, 8).eval()
        >>> z = torch.randn(2, 8, 4, 4)
        >>> quantizer.num_embeddings = 65536
        >>> torch.equal(quantizer.decode(quantizer.encode(z)), quantizer(z).quantized)
        True
    """

    soft = True  # in training
    residual_gain = None  # the scale of the codes is fixed
    steps: Tensor
    multipliers: Tensor  # m, m_above, m_below

    def __init__(
        self,
        num_embeddings: Count = 512,
        embedding_dim: Count = 8,
        kl_weight: Positive = 1e-4,
        tolerance: NonNegative = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.embedding_dim, self.kl_weight, self.tolerance, self.seed = embedding_dim, kl_weight, tolerance, seed
        width = WIDTH * embedding_dim
        self.log_variance = nn.Sequential(nn.Linear(embedding_dim, width), nn.SiLU(), nn.Linear(width, embedding_dim))
        self.register_buffer("codebook", normal_codes(num_embeddings, embedding_dim, seed), persistent=False)
        self.register_buffer("multipliers", torch.ones(3))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @property
    def num_embeddings(self) -> int:  # type: ignore[override]
        """The number of codes, K; setting it draws the codebook anew."""
        return len(self.codebook)

    @num_embeddings.setter
    def num_embeddings(self, number: Count) -> None:
        check_arguments(type(self), {"num_embeddings": number})
        self.codebook = normal_codes(number, self.embedding_dim, self.seed).to(self.codebook)
        self.init_args["num_embeddings"] = number

    @property
    def target(self) -> float:
        """The divergence of a row that the constraint demands, in bits."""
        return math.log2(self.num_embeddings)

    def quantize(self, rows: Tensor) -> QuantizerOutput:
        finite = finite_rows(rows)  # other rows give NaN and no gradient of the weights
        mean = torch.where(finite, rows, 0)
        log_variance = self.log_variance(mean).clamp(*LOG_VARIANCE)
        indices = best_code(mean.detach(), log_variance.detach(), self.codebook)
        if self.training:
            quantized = mean + (log_variance / 2).exp() * self._noise(rows)
        else:
            quantized = self.estimate(mean, self.codebook[indices])

        bits = kl_bits(mean, log_variance)
        above, below = bits > self.target + self.tolerance, bits < self.target - self.tolerance
        overall, m_above, m_below = self.multipliers.to(rows.dtype).unbind()
        weight = torch.where(above, m_above, torch.where(below, m_below, 1.0))
        loss = self.kl_weight * overall * torch.where(finite[:, 0], weight * bits, math.nan).mean()

        counted = finite[:, 0]
        sums = [counted, above & counted, below & counted, torch.where(counted, bits.detach(), 0)]
        counts = torch.stack([values.to(rows.dtype).sum() for values in sums])
        terms = {"kl_bits": counts[3] / counts[0].clamp_min(1), "kl_weight": self.kl_weight * overall}
        stats = CodeStats(counts, rows.new_zeros(4, 0), rows.new_zeros(0, 0), rows.new_zeros(0).double())
        quantized = torch.where(finite, quantized, math.nan)
        return QuantizerOutput(quantized, indices, loss, terms, stats if self.training else None)

    def commit(self, stats: CodeStats) -> list[Revival]:
        number, above, below, total = stats.counts.unbind()
        raised = torch.stack([total > self.target * number, above > 0, below == 0])
        low, high = (self.multipliers.new_tensor(bounds) for bounds in (LOWEST, HIGHEST))
        self.multipliers.mul_(torch.where(raised, RATE, 1 / RATE)).clamp_(low, high)
        self.steps += 1
        return []

    def _noise(self, rows: Tensor) -> Tensor:
        """Return normal noise (N, D), by seed, step and sample if ``sample_index`` is set."""
        if self.sample_index is None:
            return torch.randn_like(rows)
        num = positions(rows, self.sample_index)
        keys = (self.sample_index[:, None] * num + torch.arange(num, device=rows.device)).flatten()
        uniform = uniform_by_sample(keys, self.embedding_dim, step_seed(self.seed, self.steps + 1))
        return torch.special.ndtri(uniform).view_as(rows).to(rows.dtype)


def normal_codes(number: int, dim: int, seed: int) -> Tensor:
    """Return ``number`` samples (K, D) of the standard normal; a code depends on its index and ``seed`` alone."""
    index = torch.arange(1, number + 1)  # the hash of zeros is 0
    uniform = uniform_by_sample(index, dim, step_seed(seed, torch.tensor(0)))
    return torch.special.ndtri(uniform).view(number, dim).float()


def kl_bits(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the divergence (N,) in bits of N(mean, exp(log_variance)), both (N, D), from the standard normal."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / (2 * math.log(2))


def best_code(mean: Tensor, log_variance: Tensor, codebook: Tensor) -> Tensor:
    """Return argmax_k q(e_k) / p(e_k) as (N,), where q = N(mean, exp(log_variance)) (N, D), p is the standard normal.

    The logarithm is e_k mean / s^2 + e_k^2 (1 - 1 / s^2) / 2 and terms without k, summed over channels.
    """
    precision = (-log_variance).exp()
    rows = torch.cat([mean * precision, (1 - precision) / 2], 1)
    return largest_product(rows, torch.cat([codebook, codebook.square()], 1))
