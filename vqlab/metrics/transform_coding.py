"""Classical coders of signals: PCM, the KLT and wavelets, reference points for models at the same number of bits.

Each is fitted to training windows (N, C, L), and codes others at a rate in bits per sample, of one channel.
"""

import heapq
from dataclasses import dataclass
from typing import Self

import numpy as np
import pywt
import torch
from torch import Tensor

LLOYD_ITERATIONS = 50
PCM_STARTS = 12  # first ranges of the levels of PCM
DEEPEST = 10  # bits of a coefficient with levels of Lloyd and Max
ESCAPE = 32  # bits of a symbol that did not occur in training, after its code
EXPONENTS = (-16.0, 6.0)  # of 2, first bounds of the ratio of the step to the root mean square
BISECTIONS = 16


@dataclass(frozen=True)
class Coded:
    """Reconstructed windows, and the number of bits that they took."""

    x_hat: Tensor  # (N, C, L)
    bits_per_sample: float


class PCM:
    """Quantize each sample to one of 2^b equidistant levels, whose range and step minimise the training error.

    Jayant and Noll 1984, chapter 4. The levels are optimised by turns: each sample takes the nearest level, then the
    levels are the straight line through the samples (least squares); the best of several first ranges is kept.

    Example:
        >>> x = torch.sin(torch.arange(512) / 9).view(2, 1, 256)
        >>> coded = PCM().fit(x).code(x, 4)
        >>> coded.bits_per_sample, bool((coded.x_hat - x).abs().max() < 1 / 15)
        (4.0, True)
    """

    kind = "fixed rate"

    def fit(self, x: Tensor) -> Self:
        """Keep the samples of ``x`` (N, C, L) for the optimisation of the levels."""
        self.values = x.double().flatten()[None].sort(1).values
        return self

    def code(self, x: Tensor, bits_per_sample: int) -> Coded:
        """Code windows (N, C, L) with an integer number of bits per sample."""
        levels = uniform_levels(self.values, 2**bits_per_sample)
        return Coded(nearest(x.double(), levels).to(x), float(bits_per_sample))


class KLTLloydMax:
    """Code the KLT of blocks of samples at a fixed rate: greedy bit allocation, levels of Lloyd and Max.

    The classical transform coder (Huang and Schultheiss 1963; Gersho and Gray 1992, chapter 8). Blocks of
    all channels are rows of one data set, with one transform.

    Args:
        block: Samples of a block, a divisor of the length of the windows.

    Example:
        >>> x = torch.randn(50, 1, 128).cumsum(-1)
        >>> coded = KLTLloydMax(block=16).fit(x).code(x, 1.5)
        >>> coded.bits_per_sample, bool((coded.x_hat - x).square().mean() < 0.1 * x.var())
        (1.5, True)
    """

    kind = "fixed rate"

    def __init__(self, block: int = 64) -> None:
        self.block = block

    def fit(self, x: Tensor) -> Self:
        """Estimate the transform from windows (N, C, L), and keep their coefficients for the optimisation of levels."""
        self.klt = KLT(x, self.block)
        self.levels = LloydMaxLevels(self.klt.forward(x))
        return self

    def code(self, x: Tensor, bits_per_sample: float) -> Coded:
        """Code windows (N, C, L) with a fixed number of bits per block, at most 10 per coefficient."""
        bits = round(bits_per_sample * self.block)
        return Coded(self.klt.inverse(self.levels.code(self.klt.forward(x), bits), x), bits / self.block)


class KLTEntropyCoded:
    """Code the KLT of blocks of samples with one uniform step for all coefficients, and ideal entropy coding.

    At high rates no other scalar quantizer of the coefficients needs fewer bits (Gish and Pierce 1968). Blocks of all
    channels are rows of one data set, with one transform.

    Args:
        block: Samples of a block, a divisor of the length of the windows.

    Example:
        >>> x = torch.randn(50, 1, 128).cumsum(-1)
        >>> coded = KLTEntropyCoded(block=16).fit(x).code(x, 1.5)
        >>> round(coded.bits_per_sample, 1), bool((coded.x_hat - x).square().mean() < 0.1 * x.var())
        (1.5, True)
    """

    kind = "entropy-coded"

    def __init__(self, block: int = 64) -> None:
        self.block = block

    def fit(self, x: Tensor) -> Self:
        """Estimate the transform from windows (N, C, L), and keep their coefficients for the search for the step."""
        self.klt = KLT(x, self.block)
        self.rows = self.klt.forward(x)
        return self

    def code(self, x: Tensor, bits_per_sample: float) -> Coded:
        """Code windows (N, C, L) with the step that takes ``bits_per_sample`` on the training windows."""
        coder = at_rate([self.rows], bits_per_sample * self.rows.numel())
        (rows,), bits = coder.code([self.klt.forward(x)])
        return Coded(self.klt.inverse(rows, x), bits / x.numel())


class WaveletEntropyCoded:
    """Code the wavelet transform of windows with one step and a dead zone of twice the step, and ideal entropy coding.

    The biorthogonal 4.4 (CDF 9/7) filters and the quantizer of JPEG 2000 (Taubman and Marcellin 2002), as many levels
    as the window allows; the coefficients of a subband share one table of frequencies, over all channels.

    Example:
        >>> x = torch.randn(50, 1, 128).cumsum(-1)
        >>> coded = WaveletEntropyCoded().fit(x).code(x, 1.5)
        >>> round(coded.bits_per_sample, 1), bool((coded.x_hat - x).square().mean() < 0.1 * x.var())
        (1.5, True)
    """

    kind = "entropy-coded"

    def fit(self, x: Tensor) -> Self:
        """Keep the subbands of windows (N, C, L) for the search for the step."""
        self.bands, self.size = [band.view(-1, 1) for band in self.forward(x)], x.numel()
        return self

    def code(self, x: Tensor, bits_per_sample: float) -> Coded:
        """Code windows (N, C, L) with the step that takes ``bits_per_sample`` on the training windows."""
        coder = at_rate(self.bands, bits_per_sample * self.size, dead_zone=True)
        bands = self.forward(x)
        rows, bits = coder.code([band.view(-1, 1) for band in bands])
        coded = [row.view_as(band) for row, band in zip(rows, bands, strict=True)]
        return Coded(self.inverse(coded, x), bits / x.numel())

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the subbands (N, C, l) of windows, from low to high frequencies."""
        return [*map(torch.from_numpy, pywt.wavedec(x.double().numpy(), "bior4.4", mode="periodization"))]

    def inverse(self, bands: list[Tensor], like: Tensor) -> Tensor:
        """Return windows of the shape and dtype of ``like``."""
        x = pywt.waverec([band.numpy() for band in bands], "bior4.4", mode="periodization")
        return torch.from_numpy(x[..., : like.shape[-1]]).to(like)


class KLT:
    """The Karhunen-Loeve transform (PCA) of blocks of windows ``x`` (N, C, L); its first ``components``, or all."""

    def __init__(self, x: Tensor, block: int, components: int | None = None) -> None:
        rows = x.double().reshape(-1, block)
        self.mean = rows.mean(0)
        rows = rows - self.mean
        self.basis = torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1)[:, :components]

    def forward(self, x: Tensor) -> Tensor:
        """Return the coefficients (N C L / block, components), those of the largest variance first."""
        return (x.double().reshape(-1, len(self.mean)) - self.mean) @ self.basis

    def inverse(self, rows: Tensor, like: Tensor) -> Tensor:
        """Return windows of the shape and dtype of ``like``."""
        return (rows @ self.basis.T + self.mean).view(like.shape).to(like)


class LloydMaxLevels:
    """Levels of Lloyd and Max for the columns of ``rows`` (N, D), for as many bits as the allocation needs."""

    def __init__(self, rows: Tensor) -> None:
        self.values = rows.T.sort(1).values.contiguous()
        self.levels: dict[tuple[int, int], Tensor] = {}  # by column and number of bits
        self.errors = torch.full((DEEPEST + 1, len(self.values)), torch.nan, dtype=rows.dtype)  # of 0, 1, ... bits
        for depth in (0, 1):
            self.optimise([*range(len(self.values))], depth)

    def code(self, rows: Tensor, bits: int) -> Tensor:
        """Return ``rows`` (n, D) with each coefficient replaced by a level; ``bits`` for each row."""
        columns = rows.T.contiguous()
        for column, depth in enumerate(self.allocate(bits).tolist()):
            columns[column] = nearest(columns[column], self.levels[column, depth])
        return columns.T

    def allocate(self, bits: int) -> Tensor:
        """Return the bits (D,) of each column; levels of one bit more are optimised where they may be needed."""
        while True:
            depths = distribute(self.errors, bits)
            beyond = self.errors[(depths + 1).clamp_max(DEEPEST), torch.arange(len(depths))].isnan()
            if not beyond.any():
                return depths
            for depth in depths[beyond].unique().tolist():
                self.optimise((beyond & (depths == depth)).nonzero()[:, 0].tolist(), depth + 1)

    def optimise(self, columns: list[int], depth: int) -> None:
        """Keep the levels of ``depth`` bits of some columns, and their squared errors."""
        levels, self.errors[depth, columns] = lloyd_max(self.values[columns], 2**depth)
        self.levels |= {(column, depth): row for column, row in zip(columns, levels, strict=True)}


class UniformCoder:
    """Uniform quantization of groups of columns [(N, D), ...] with one step, reconstruction at the training centroids.

    The symbols of a column are coded ideally under their frequencies in training, plus one. A symbol outside the range
    of training takes the bits of an unseen one and ``ESCAPE`` more.
    """

    def __init__(self, groups: list[Tensor], step: float, dead_zone: bool = False) -> None:
        self.step, self.dead_zone = step, dead_zone
        self.tables = [SymbolTable(self.symbols(rows), rows) for rows in groups]
        self.training_bits = sum(float(table.counts @ table.bits) for table in self.tables)

    def symbols(self, rows: Tensor) -> Tensor:
        """Return the integers of coefficients (N, D); with a dead zone, what lies within one step of 0 becomes 0."""
        return (rows / self.step).trunc().long() if self.dead_zone else (rows / self.step).round().long()

    def code(self, groups: list[Tensor]) -> tuple[list[Tensor], float]:
        """Return the reconstructed groups, and the number of bits."""
        found, bits = [], 0.0
        for rows, table in zip(groups, self.tables, strict=True):
            symbols = self.symbols(rows)
            cells = table.cells(symbols)
            middle = (symbols + symbols.sign() / 2 if self.dead_zone else symbols) * self.step
            found.append(torch.where(table.counts[cells] > 0, table.centroids[cells], middle))
            bits += float(table.bits[cells].sum())
        return found, bits


class SymbolTable:
    """Number, code length and mean coefficient of the symbols (N, D) of each column; its last symbol is the escape."""

    def __init__(self, symbols: Tensor, rows: Tensor) -> None:
        self.low, high = symbols.aminmax(dim=0)
        self.sizes = high - self.low + 2
        self.ends = self.sizes.cumsum(0)
        cells, size = self.cells(symbols).flatten(), int(self.ends[-1])
        self.counts = torch.bincount(cells, minlength=size).double()
        self.centroids = torch.bincount(cells, rows.flatten(), size) / self.counts
        self.bits = (len(symbols) + self.sizes).double().log2().repeat_interleave(self.sizes) - (self.counts + 1).log2()
        self.bits[self.ends - 1] += ESCAPE

    def cells(self, symbols: Tensor) -> Tensor:
        """Return the position (N, D) of each symbol in the table."""
        place = symbols - self.low
        inside = (place >= 0) & (place < self.sizes - 1)
        return torch.where(inside, self.ends - self.sizes + place, self.ends - 1)


def at_rate(groups: list[Tensor], bits: float, dead_zone: bool = False) -> UniformCoder:
    """Return the coder fitted to ``groups`` [(N, D), ...] whose step takes ``bits`` on them, found by bisection."""
    scale = torch.cat([rows.flatten() for rows in groups]).square().mean().sqrt().item()
    low, high = EXPONENTS
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        coder = UniformCoder(groups, scale * 2**middle, dead_zone)
        low, high = (middle, high) if coder.training_bits > bits else (low, middle)
    return coder


def nearest(values: Tensor, levels: Tensor) -> Tensor:
    """Return the nearest of ascending ``levels`` (K,) for each value (...)."""
    return levels[torch.bucketize(values, (levels[1:] + levels[:-1]) / 2)]


def uniform_levels(values: Tensor, number: int) -> Tensor:
    """Return ``number`` equidistant levels (number,) with a small squared error, for ascending values (1, N)."""
    sums, steps = cumulative(values), torch.arange(number, device=values.device).to(values)
    size, least, best = values.shape[1], torch.inf, values[0, :0]
    for tail in np.geomspace(0.4, 1 / size, PCM_STARTS):
        low, high = values[0, int(tail * size)], values[0, -1 - int(tail * size)]
        levels = low + (high - low) * (steps + 0.5) / number
        for _ in range(LLOYD_ITERATIONS):
            counts, totals = assign(values, sums, levels[None])
            centred = steps - (counts * steps).sum() / size
            levels = totals.sum() / size + centred * (centred * totals).sum() / (counts * centred.square()).sum()
        if (error := squared_error(values, sums, levels[None]).item()) < least:
            least, best = error, levels
    return best


def lloyd_max(values: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return ``number`` levels (D, number), and their squared error (D,), for ascending values (D, N).

    Max 1960, Lloyd 1982. Lloyd's iterations from levels whose density is that of the values to the power 1/3 (Panter
    and Dite 1951).
    """
    size, sums = values.shape[1], cumulative(values)
    some = torch.arange(min(size, 16 * number), device=values.device) * size // min(size, 16 * number)
    places = cumulative(values[:, some].diff().pow(2 / 3))
    wanted = (torch.arange(number, device=values.device) + 0.5) / number * places[:, -1:]
    levels = values[:, some].gather(1, torch.searchsorted(places, wanted))
    for _ in range(LLOYD_ITERATIONS):
        counts, totals = assign(values, sums, levels)
        levels = torch.where(counts > 0, totals / counts.clamp_min(1), levels).cummax(1).values
    return levels, squared_error(values, sums, levels)


def cumulative(values: Tensor) -> Tensor:
    """Return the sums (D, N + 1) of the first 0, 1, ... N of ``values`` (D, N)."""
    return torch.cat([torch.zeros_like(values[:, :1]), values.cumsum(1)], 1)


def assign(values: Tensor, sums: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Return number and sum (D, K) of the values (D, N) nearest to each of ``levels`` (D, K), all ascending."""
    ends = torch.searchsorted(values, (levels[:, 1:] + levels[:, :-1]) / 2)
    bounds = torch.nn.functional.pad(ends, (1, 1))
    bounds[:, -1] = values.shape[1]
    return bounds.diff(dim=1), sums.gather(1, bounds).diff(dim=1)


def squared_error(values: Tensor, sums: Tensor, levels: Tensor) -> Tensor:
    """Return the sum of squared distances (D,) of the values (D, N) to the nearest of ``levels`` (D, K)."""
    counts, totals = assign(values, sums, levels)
    return values.square().sum(1) + (counts * levels.square() - 2 * levels * totals).sum(1)


def distribute(errors: Tensor, bits: int) -> Tensor:
    """Return the bits (D,) of each channel, their sum ``bits``; ``errors`` (depths, D) are those of 0, 1, ... bits.

    Reverse water-filling bit by bit: each goes where it lowers the error most. A channel whose next error is NaN gets
    no further bit, so the sum may be less.
    """
    gains = [[gain for gain in column if gain == gain] for column in (errors[:-1] - errors[1:]).T.tolist()]
    depths = [0] * len(gains)
    open_channels = [(-column[0], channel) for channel, column in enumerate(gains) if column]
    heapq.heapify(open_channels)
    for _ in range(bits):
        if not open_channels:
            break
        _, best = open_channels[0]
        depths[best] += 1
        if depths[best] < len(gains[best]):
            heapq.heapreplace(open_channels, (-gains[best][depths[best]], best))
        else:
            heapq.heappop(open_channels)
    return torch.tensor(depths, device=errors.device)
