"""What the signal DataModules share: windows of records, and their standardisation.

Shapes: B windows of a batch, C channels, L samples of a window, T samples of a record.
"""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Annotated, Literal

import torch
from torch import Tensor

from vqlab.data.datamodule import Batch, Split, SplitDataModule, Workers, as_it_is
from vqlab.errors import UserError
from vqlab.training.data_format import Format
from vqlab.validation import Count, NonNegativeInt, Range

FLAT = 1e-3  # a standard deviation below this fraction of the data's is not scaled up to 1


class Windows(Split):
    """Windows of equal length, cut from records in memory; no window spans two records.

    ``records`` are (C, T) float32 each, of any lengths; windows have ``length`` samples and begin every ``stride``.

    Example:
        >>> data = Windows([torch.arange(10.0)[None], torch.zeros(1, 3)], length=4, stride=3)
        >>> len(data), data.__getitems__([1])["signal"].tolist()
        (3, [[[3.0, 4.0, 5.0, 6.0]]])
    """

    def __init__(self, records: list[Tensor], length: int, stride: int) -> None:
        self.records, self.length = records, length
        starts = [[r, s] for r, x in enumerate(records) for s in range(0, x.shape[1] - length + 1, stride)]
        self.starts = torch.tensor(starts, dtype=torch.int64).view(-1, 2)  # record and first sample of each window

    def __len__(self) -> int:
        return len(self.starts)

    def __getitems__(self, indices: list[int]) -> Batch:
        index = torch.as_tensor(indices)
        cuts = [self.records[r][:, s : s + self.length] for r, s in self.starts[index].tolist()]
        return {"signal": torch.stack(cuts), "index": index}


class SignalDataModule(SplitDataModule):
    """Windows of signals, in batches of ``signal`` and ``index``.

    A source subclasses this, sets ``channels``, ``sample_rate`` and ``train_size`` in its constructor, and defines
    ``load_train_val`` and ``load_test``.

    Args:
        length: Samples of a window, L.
        stride: Samples from one window of a record to the next. Default: ``length``, no overlap.
        batch_size: Windows per batch and device.
        standardize: ``signal`` gives each channel of each window mean 0 and standard deviation 1; ``dataset`` does so
            for each channel over the training windows; ``none`` keeps the units.
        num_workers: Processes that load batches; 0 loads in the main process.
        seed: Seed of the split and of the order.

    Shape:
        batch["signal"] (B, C, L) float32; batch["index"] (B,) int64, the position in the split.

    Raises:
        UserError: If an argument is out of range, or a split is too small for one batch.
    """

    examples = "windows"
    modality = "signal"
    channels: int
    sample_rate: float
    train_size: int
    channel_names: list[str] = []  # noqa: RUF012  # replaced, not changed

    def __init__(
        self,
        length: Annotated[int, Range(2)] = 512,
        stride: Count | None = None,
        batch_size: Count = 64,
        standardize: Literal["signal", "dataset", "none"] = "signal",
        num_workers: Workers = 0,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(batch_size, num_workers, seed)
        self.length, self.stride, self.standardize = length, stride or length, standardize

    def collate(self) -> Callable[[Batch], Batch]:
        """Standardise windows."""
        if self.standardize == "none":
            return as_it_is
        return partial(by_signal if self.standardize == "signal" else by_data, statistics=self.statistics)

    def describe(self) -> Format:
        """Return channels and rate, where they are known, and how windows are standardised."""
        found: Format = {"standardize": self.standardize}
        if not all(name.isdecimal() for name in self.channel_names):
            found["channels"] = self.channel_names
        if self.sample_rate != 1:
            found["sample_rate"] = self.sample_rate
        return found

    def fitted(self) -> Format:
        """Return the statistics of the training windows."""
        if self.standardize == "none":
            return {}
        return {"statistics": [statistic.flatten().tolist() for statistic in self.statistics]}

    def apply_format(self, trained: Format) -> None:
        """Standardise by the checkpoint's statistics."""
        super().apply_format(trained)
        if (statistics := trained.get("statistics")) and len(statistics[0]) == self.channels:
            self.__dict__["statistics"] = tuple(torch.tensor(values)[:, None] for values in statistics)

    @cached_property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel over the training windows, (C, 1) each."""
        data = self._train_val[0]
        count = len(data)
        total, squares = torch.zeros(self.channels).double(), torch.zeros(self.channels).double()
        for part in torch.arange(count).split(256):
            signal = data.__getitems__(part.tolist())["signal"].double()
            total += signal.mean((0, 2)) * len(part)
            squares += signal.square().mean((0, 2)) * len(part)
        mean = total / count
        spread = (squares / count - mean**2).clamp_min(0).sqrt()
        if not bool((spread > 0).all()):
            flat = int((spread == 0).nonzero()[0])
            raise UserError(f"channel {flat} is constant in all training windows: choose other channels")
        return mean.float()[:, None], spread.float()[:, None]


def by_signal(batch: Batch, statistics: tuple[Tensor, Tensor]) -> Batch:
    """Give each channel of each window mean 0 and standard deviation 1; a flat one stays near 0."""
    x, (_, usual) = batch["signal"], statistics
    x = x - x.mean(-1, keepdim=True)
    spread = x.square().mean(-1, keepdim=True).sqrt()
    return batch | {"signal": x / torch.maximum(spread, FLAT * usual)}


def by_data(batch: Batch, statistics: tuple[Tensor, Tensor]) -> Batch:
    """Give each channel mean 0 and standard deviation 1 over the training windows."""
    mean, spread = statistics
    return batch | {"signal": (batch["signal"] - mean) / spread}
