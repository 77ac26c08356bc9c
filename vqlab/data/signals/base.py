"""Base of the signal DataModules: windows of records, and their standardisation.

Shapes: B windows of a batch, C channels, L samples of a window, T samples of a record.
"""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from vqlab.data.datamodule import Batch, Split, SplitDataModule, Workers, as_it_is
from vqlab.errors import UserError
from vqlab.training.data_format import Format
from vqlab.validation import Count, NonNegativeInt, Range

STRETCH = 1.25  # largest factor of time in augmented windows, and its inverse the smallest
SPLINE = 12  # samples beyond a window at which a cubic spline no longer depends on its end
FLAT = 1e-3  # a window is not scaled up to 1 if its standard deviation is below this fraction of the data's


class Windows(Split):
    """Windows of equal length, cut from records in memory; no window spans two records.

    ``records`` are (C, T) float32, of any lengths T; a window of ``length`` samples starts every ``stride`` samples.
    """

    def __init__(self, records: list[Tensor], length: int, stride: int) -> None:
        self.records, self.length, self.stride = records, length, stride
        starts = [[r, s] for r, x in enumerate(records) for s in range(0, x.shape[1] - length + 1, stride)]
        self.starts = torch.tensor(starts, dtype=torch.int64).view(-1, 2)  # record and first sample of each window

    def __len__(self) -> int:
        return len(self.starts)

    def __getitems__(self, indices: list[int]) -> Batch:
        index = torch.as_tensor(indices)
        cuts = [self.records[r][:, s : s + self.length] for r, s in self.starts[index].tolist()]
        return {"signal": torch.stack(cuts), "index": index}


class StretchedWindows(Split):
    """Windows of the same records from other places, stretched in time by 0.8 to 1.25, half of them negated.

    The window at a position differs by epoch; the draws depend on (seed, epoch, position) alone.
    """

    by_epoch = True

    def __init__(self, windows: Windows, seed: int) -> None:
        self.windows, self.seed = windows, seed

    def __len__(self) -> int:
        return len(self.windows)

    def __getitems__(self, indices: list[int]) -> Batch:
        cuts = [self._cut(*divmod(index, len(self))) for index in indices]
        return {"signal": torch.stack(cuts), "index": torch.as_tensor(indices) % len(self)}

    def _cut(self, epoch: int, position: int) -> Tensor:
        """Return the window of a position, from up to a stride earlier or later, by a cubic spline, (C, L)."""
        windows, length = self.windows, self.windows.length
        stretch, place, sign = np.random.default_rng((self.seed, epoch, position)).random(3)
        record, start = windows.starts[position].tolist()
        signal = windows.records[record]
        span = min(STRETCH ** (2 * stretch - 1) * length, signal.shape[1])
        first = min(max(0, start + (2 * place - 1) * windows.stride), signal.shape[1] - span)
        where = first + np.linspace(0, span - 1, length)
        left = max(0, int(first) - SPLINE)
        near = signal[:, left : int(first + span) + SPLINE].numpy()
        cut = np.stack([map_coordinates(channel, where[None] - left, order=3, mode="nearest") for channel in near])
        return torch.from_numpy(-cut if sign < 0.5 else cut)


class SignalDataModule(SplitDataModule):
    """Windows of signals, in batches of ``signal`` and ``index``.

    A source subclasses this, sets ``channels`` and ``sample_rate`` in its constructor, and defines ``load_split``.

    Args:
        length: Samples of a window, L.
        stride: Samples from one window of a record to the next. Default: ``length``, no overlap.
        batch_size: Windows per batch and device.
        standardize: ``signal`` scales each channel of each window to mean 0 and standard deviation 1; ``dataset`` uses
            mean and standard deviation of the channel over the training windows; ``none`` keeps the units.
        augment: Move training windows by up to ``stride`` samples, stretch them in time by 0.8 to 1.25, and negate half
            of them, all channels alike: for records of few persons.
        num_workers: Processes that load batches; 0 loads in the main process.
        seed: Seed of the split and of the order.

    Shape:
        batch["signal"] (B, C, L) float32; batch["index"] (B,) int64, the position in the split.
    """

    examples = "windows"
    modality = "signal"
    channels: int
    sample_rate: float
    channel_names: list[str] = []  # noqa: RUF012  # replaced, not changed

    def __init__(
        self,
        length: Annotated[int, Range(2)] = 512,
        stride: Count | None = None,
        batch_size: Count = 64,
        standardize: Literal["signal", "dataset", "none"] = "signal",
        augment: bool = False,
        num_workers: Workers = 0,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(batch_size, num_workers, seed)
        self.length, self.stride = length, stride or length
        self.standardize, self.augment = standardize, augment

    def train_examples(self) -> Split:
        windows: Any = self._train_val[0]
        return StretchedWindows(windows, self.seed) if self.augment else windows

    def collate(self) -> Callable[[Batch], Batch]:
        if self.standardize == "none":
            return as_it_is
        return partial(by_signal if self.standardize == "signal" else by_data, statistics=self.statistics)

    def describe(self) -> Format:
        found: Format = {"standardize": self.standardize}  # channels and rate only if they are known
        if not all(name.isdecimal() for name in self.channel_names):
            found["channels"] = self.channel_names
        if self.sample_rate != 1:
            found["sample_rate"] = self.sample_rate
        return found

    def fitted(self) -> Format:
        if self.standardize == "none":
            return {}
        return {"statistics": [statistic.flatten().tolist() for statistic in self.statistics]}

    def apply_format(self, trained: Format) -> None:
        super().apply_format(trained)
        if (statistics := trained.get("statistics")) and len(statistics[0]) == self.channels:
            self.__dict__["statistics"] = tuple(torch.tensor(values)[:, None] for values in statistics)

    @cached_property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel over the training windows, (C, 1) each."""
        data = self._train_val[0]
        sums = torch.zeros(2, self.channels, 1).double()
        for part in torch.arange(len(data)).split(256):
            signal = data.__getitems__(part.tolist())["signal"].double()
            sums += torch.stack([signal, signal.square()]).mean(3, keepdim=True).sum(1)
        mean, squares = sums / len(data)
        spread = (squares - mean**2).clamp_min(0).sqrt()
        if flat := (spread[:, 0] == 0).nonzero().flatten().tolist():
            raise UserError(f"channel {flat[0]} is constant in all training windows: choose other channels")
        return mean.float(), spread.float()


def by_signal(batch: Batch, statistics: tuple[Tensor, Tensor]) -> Batch:
    """Scale each channel of each window to mean 0 and standard deviation 1; a flat one stays near 0."""
    x = batch["signal"] - batch["signal"].mean(-1, keepdim=True)
    spread = x.square().mean(-1, keepdim=True).sqrt()
    return batch | {"signal": x / torch.maximum(spread, FLAT * statistics[1])}


def by_data(batch: Batch, statistics: tuple[Tensor, Tensor]) -> Batch:
    """Scale each channel by its mean and standard deviation over the training windows."""
    return batch | {"signal": (batch["signal"] - statistics[0]) / statistics[1]}
