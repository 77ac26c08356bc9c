"""Scalar quantization of each channel with levels from data (Max 1960, Lloyd 1982), and bits where they pay most."""

import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.nn.codes import check_code_range
from vqlab.nn.distributed import all_gather_rows
from vqlab.quantizers.base import CodeStats, DataInit, Quantizer, QuantizerOutput, Revival, straight_through, vq_loss
from vqlab.validation import Count, NonNegative, Probability

SYMBOL = 8  # bits of an index
DEEPEST = 8  # bits of a channel
LLOYD_ITERATIONS = 50


class ScalarQuantizer(Quantizer):
    """Replace each channel of a vector by the nearest of its own levels.

    The first global batch gives each channel its number of bits and its levels: starting from none, bit after bit goes
    to the channel whose squared error it reduces most (Gersho and Gray 1992, section 8.3), where the levels of b bits
    are those of Lloyd and Max. After a KLT this is the classical transform coder. Later the levels are running means
    of the values they replace, as in :class:`VectorQuantizer`. loss = commitment_weight * mean |z - sg(levels)|^2.

    The bits of all channels form one word, which is cut into symbols of 8 bits, the indices.

    Args:
        embedding_dim: Number of channels, D.
        bits: Bits per vector, a multiple of 8, at most 8 D.
        commitment_weight: Weight of the commitment loss.
        ema_decay: Decay of the running means per optimizer step, after the first steps.

    Shape:
        input and quantized (B, D, *spatial); indices (B, *spatial, bits / 8) int64 in [0, 256).

    Raises:
        UserError: If ``bits`` is no multiple of 8, or too many.

    Example:
        >>> out = ScalarQuantizer(embedding_dim=4, bits=16)(torch.randn(2, 4, 32))
        >>> tuple(out.quantized.shape), tuple(out.indices.shape)
        ((2, 4, 32), (2, 32, 2))
    """

    levels: Tensor  # (D, 256) ascending; a channel of b bits uses the first 2^b
    channel: Tensor  # (bits,) int64, channel of each bit of the word, ascending
    ema_counts: Tensor  # (D, 256)
    ema_sums: Tensor
    steps: Tensor
    index_dims = 1

    def __init__(
        self,
        embedding_dim: Count = 64,
        bits: Count = 128,
        commitment_weight: NonNegative = 0.25,
        ema_decay: Probability = 0.99,
    ) -> None:
        super().__init__()
        if bits % SYMBOL or bits > DEEPEST * embedding_dim:
            raise UserError(f"bits must be a multiple of {SYMBOL}, at most {DEEPEST * embedding_dim}, got {bits}")
        self.embedding_dim, self.bits = embedding_dim, bits
        self.commitment_weight, self.ema_decay = commitment_weight, ema_decay
        self.num_embeddings, self.num_codebooks = 2**SYMBOL, bits // SYMBOL
        self.register_buffer("channel", (torch.arange(bits) % embedding_dim).sort().values)
        spread = torch.linspace(-1, 1, 2**DEEPEST).expand(embedding_dim, -1)
        self.register_buffer("levels", spread.clone())
        self.register_buffer("ema_counts", torch.ones_like(spread))
        self.register_buffer("ema_sums", spread.clone())
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.first_batch = DataInit()

    def quantize(self, rows: Tensor) -> QuantizerOutput:
        if self.training:
            self.initialize(rows.detach())
        digits = self._digits(rows.detach())
        codes = self._codes(digits)
        loss, terms = vq_loss(rows, codes, self.commitment_weight, trained=False)
        stats = self._stats(rows.detach(), digits) if self.training else None
        return QuantizerOutput(straight_through(rows, codes), self._symbols(digits), loss, terms, stats)

    def lookup(self, indices: Tensor) -> Tensor:
        shifts = torch.arange(SYMBOL, device=indices.device)
        word = (indices[..., None] >> shifts & 1).flatten(-2)
        digits = word.new_zeros(*word.shape[:-1], self.embedding_dim)
        return self._codes(digits.scatter_add(-1, self.channel.expand_as(word), word << self._places()))

    def codebooks(self) -> dict[str, Tensor]:
        """Return ``levels`` (D, 256) and ``bits`` (D,)."""
        return {"levels": self.levels.clone(), "bits": self._depths()}

    def code_shape(self, size: tuple[int, ...]) -> tuple[int, ...]:  # type: ignore[override]
        return (*size, self.num_codebooks)

    def check_codes(self, indices: Tensor) -> None:
        if indices.ndim < 2 or indices.shape[-1] != self.num_codebooks:
            raise UserError(f"codes must be (B, ..., {self.num_codebooks}), got {tuple(indices.shape)}")
        check_code_range(indices, self.num_embeddings)

    def commit(self, stats: CodeStats) -> list[Revival]:
        self.steps += 1
        weight = (9 / (10.0 + self.steps)).clamp_min(1 - self.ema_decay)
        counts, sums = stats.counts.view_as(self.levels), stats.sums.view_as(self.levels)
        self.ema_counts.lerp_(counts, weight)
        self.ema_sums.lerp_(sums, weight)
        means = torch.where(counts > 0, self.ema_sums / self.ema_counts, self.levels)
        self.levels.copy_(means.cummax(1).values)
        return []

    @torch.no_grad()
    def initialize(self, rows: Tensor) -> None:
        """Distribute the bits, and set the levels, from the first global batch."""
        if not self.first_batch.awaited:
            return
        rows = all_gather_rows(rows)
        if not rows.isfinite().all():
            return  # the loss is NaN, and the levels must not be
        values = rows.T.double().sort(1).values.contiguous()
        tables = [lloyd_max(values, 2**depth) for depth in range(DEEPEST + 1)]
        depths = distribute(torch.stack([errors for _, errors in tables]), self.bits)
        for channel, depth in enumerate(depths.tolist()):
            self.levels[channel, : 2**depth] = tables[depth][0][channel]
        self.channel.copy_(torch.arange(self.embedding_dim, device=rows.device).repeat_interleave(depths))
        counts = self._stats(rows, self._digits(rows)).counts.view_as(self.levels).clamp_min(1)
        for name, value in (("levels", self.levels), ("channel", self.channel), ("ema_counts", counts)):
            getattr(self, name).copy_(all_gather_rows(value)[: len(value)])  # of rank 0: on a GPU rounding differs
        self.ema_sums.copy_(self.levels * self.ema_counts)
        self.first_batch.done()

    def _depths(self) -> Tensor:
        """Return the number of bits of each channel, (D,)."""
        return (self.channel == torch.arange(self.embedding_dim, device=self.channel.device)[:, None]).sum(1)

    def _places(self) -> Tensor:
        """Return the place of each bit of the word in its channel's digit, (bits,)."""
        depths = self._depths()
        return torch.arange(self.bits, device=depths.device) - (depths.cumsum(0) - depths)[self.channel]

    def _digits(self, rows: Tensor) -> Tensor:
        """Return the number of the nearest level of each channel, (N, D)."""
        edges = (self.levels[:, 1:] + self.levels[:, :-1]) / 2
        number = torch.arange(1, edges.shape[1] + 1, device=edges.device)
        edges = torch.where(number < 2 ** self._depths()[:, None], edges, torch.inf)
        return torch.searchsorted(edges, rows.T.contiguous()).T.clamp_max(edges.shape[1])

    def _symbols(self, digits: Tensor) -> Tensor:
        """Return the symbols (N, bits / 8) of digits (N, D)."""
        word = digits[:, self.channel] >> self._places() & 1
        shifts = torch.arange(SYMBOL, device=word.device)
        return (word.unflatten(1, (-1, SYMBOL)) << shifts).sum(2)

    def _codes(self, digits: Tensor) -> Tensor:
        """Return the levels of digits (..., D)."""
        return self.levels[torch.arange(self.embedding_dim, device=digits.device), digits]

    def _stats(self, rows: Tensor, digits: Tensor) -> CodeStats:
        cells = (digits + 2**DEEPEST * torch.arange(self.embedding_dim, device=rows.device)).flatten()
        finite = rows.isfinite().flatten()
        zeros = rows.new_zeros(self.levels.numel())
        counts = zeros.index_add(0, cells, finite.to(rows.dtype))
        sums = zeros.index_add(0, cells, torch.where(finite, rows.flatten(), 0))
        return CodeStats(counts, sums[:, None], rows.new_zeros(0, 1), counts.new_empty(0, dtype=torch.float64))


def lloyd_max(values: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return ``number`` levels (D, number), and their squared error (D,), for ascending values (D, N).

    Lloyd's iterations from levels whose density is that of the values to the power 1/3 (Panter and Dite 1951); sums
    over a cell are differences of cumulative sums.
    """
    size = values.shape[1]
    zero = values.new_zeros(len(values), 1)
    sums = torch.cat([zero, values.cumsum(1)], 1)
    some = torch.arange(min(size, 16 * number), device=values.device) * size // min(size, 16 * number)
    places = torch.cat([zero, values[:, some].diff().pow(2 / 3).cumsum(1)], 1)
    wanted = (torch.arange(number, device=values.device) + 0.5) / number * places[:, -1:]
    levels = values[:, some].gather(1, torch.searchsorted(places, wanted))
    starts = torch.searchsorted(values, torch.cat([zero - torch.inf, (levels[:, 1:] + levels[:, :-1]) / 2], 1))
    for _ in range(LLOYD_ITERATIONS + 1):
        counts, totals = cells(starts, size), cells(sums.gather(1, starts), sums[:, -1:])
        levels = torch.where(counts > 0, totals / counts.clamp_min(1), levels).cummax(1).values
        starts = torch.searchsorted(values, torch.cat([zero - torch.inf, (levels[:, 1:] + levels[:, :-1]) / 2], 1))
    counts, totals = cells(starts, size), cells(sums.gather(1, starts), sums[:, -1:])
    errors = values.square().sum(1) + (counts * levels.square() - 2 * levels * totals).sum(1)
    return levels, errors


def cells(starts: Tensor, end: Tensor | int) -> Tensor:
    """Return the differences of neighbours (D, K) of ``starts`` (D, K), the last to ``end``."""
    last = end if isinstance(end, Tensor) else torch.full_like(starts[:, :1], end)
    return torch.diff(torch.cat([starts, last], 1))


def distribute(errors: Tensor, bits: int) -> Tensor:
    """Return the bits (D,) of each channel, their sum ``bits``; ``errors`` (depths, D) are those of 0, 1, ... bits."""
    gains = [*(errors[:-1] - errors[1:]).T.tolist()]
    depths = [0] * len(gains)
    for _ in range(bits):
        open_channels = [channel for channel, depth in enumerate(depths) if depth < len(gains[channel])]
        best = max(open_channels, key=lambda channel: gains[channel][depths[channel]])
        depths[best] += 1
    return torch.tensor(depths, device=errors.device)
