"""Classical coders of signals (PCM, KLT, wavelets): reference points for models at the same number of bits."""

import torch
from torch import Tensor

LLOYD_ITERATIONS = 50


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
