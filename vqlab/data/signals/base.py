"""What the signal DataModules share: windows of records, and their standardisation.

Shapes: B windows of a batch, C channels, L samples of a window, T samples of a record.
"""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor

from vqlab.data.datamodule import Batch, Split, SplitDataModule, as_it_is, require_at_least
from vqlab.errors import UserError
from vqlab.training.data_format import Format

FLAT = 1e-3  # a window whose spread is this share of the data's is taken for flat and not blown up


class Windows(Split):
    """Windows of equal length, cut from records in memory; no window spans two records.

    Args:
        records: (C, T) float32 each, of any lengths.
        starts: Record and first sample of each window, (N, 2) int64.
        length: Samples of a window.

    Example:
        >>> data = Windows([torch.arange(10.0)[None]], window_starts([10], length=4, stride=3), length=4)
        >>> len(data), data.__getitems__([1])["signal"].tolist()
        (3, [[[3.0, 4.0, 5.0, 6.0]]])
    """

    def __init__(self, records: list[Tensor], starts: Tensor, length: int) -> None:
        self.records, self.starts, self.length = records, starts, length

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
        stride: Samples from one window of a record to the next; null is ``length``: no overlap.
        batch_size: Windows per batch and device.
        standardize: ``signal`` gives each channel of each window mean 0 and standard deviation 1; ``dataset`` does so
            for each channel over the training windows; ``none`` leaves the units.
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
        length: int = 512,
        stride: int | None = None,
        batch_size: int = 64,
        standardize: Literal["signal", "dataset", "none"] = "signal",
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers, seed)
        require_at_least("length", length, 2, mend=512)
        require_at_least("stride", 1 if stride is None else stride, 1, mend=length)
        if standardize not in ("signal", "dataset", "none"):
            raise UserError(
                f"standardize must be signal, dataset or none, got {standardize!r}: set --data.standardize=signal"
            )
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
        """Mean and standard deviation of each channel over the training windows, (C, 1) each; this reads them."""
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
            raise UserError(f"channel {flat} is constant in all training windows: choose others with --data.picks")
        return mean.float()[:, None], spread.float()[:, None]


def window_starts(lengths: list[int], length: int, stride: int) -> Tensor:
    """Return record and first sample of each window, (N, 2), of records of so many samples.

    Example:
        >>> window_starts([10, 3, 4], length=4, stride=4).tolist()
        [[0, 0], [0, 4], [2, 0]]
    """
    starts = [[r, s] for r, samples in enumerate(lengths) for s in range(0, samples - length + 1, stride)]
    return torch.tensor(starts, dtype=torch.int64).view(-1, 2)


def by_signal(batch: Batch, statistics: tuple[Tensor, Tensor]) -> Batch:
    """Give each channel of each window mean 0 and standard deviation 1; what is flat stays near 0."""
    x, (_, usual) = batch["signal"], statistics
    x = x - x.mean(-1, keepdim=True)
    spread = x.square().mean(-1, keepdim=True).sqrt()
    return batch | {"signal": x / torch.maximum(spread, FLAT * usual)}


def by_data(batch: Batch, statistics: tuple[Tensor, Tensor]) -> Batch:
    """Give each channel mean 0 and standard deviation 1 over the training windows."""
    mean, spread = statistics
    return batch | {"signal": (batch["signal"] - mean) / spread}
