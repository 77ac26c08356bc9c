"""Training batches in an order that depends on (seed, epoch) alone and that a resumed run continues."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler


class ResumableSampler(DistributedSampler):
    """A ``DistributedSampler`` that can skip the beginning of an epoch.

    R processes with batches of B examples get the same batches as one process with R x B. Lightning calls
    ``set_epoch``; in your own loop call ``loader.sampler.set_epoch(epoch)``, otherwise all epochs have the same order.
    """

    start = 0  # samples of this rank that the next pass skips
    order: Callable[[int], Tensor] | None = None  # epoch -> order (N,), instead of a random order; needs drop_last
    by_epoch = False  # whether to yield epoch * N + position, for examples that differ by epoch

    def __iter__(self) -> Iterator[int]:
        shift = self.epoch * len(self.dataset) if self.by_epoch else 0  # type: ignore[arg-type]
        return (shift + position for position in self._positions())

    def _positions(self) -> Iterator[int]:
        if self.order is None:
            return islice(super().__iter__(), self.start, None)
        mine = self.order(self.epoch)[self.rank : self.total_size : self.num_replicas]
        # Python integers take five times the memory of a tensor.
        return (position for part in mine[self.start :].split(2**16) for position in part.tolist())


class ResumableLoader(DataLoader):
    """A ``DataLoader`` over a :class:`ResumableSampler` whose position in the epoch can be stored and restored.

    ``len`` is that of the whole epoch, because Lightning counts the skipped batches as fetched. The position counts the
    samples of all ranks, so it is valid for another number of devices with the same global batch size.
    """

    # Class attributes, because with overfit_batches Lightning re-creates loaders from the arguments of DataLoader.
    _epoch = 0
    _samples = 0  # yielded in this epoch, on all ranks
    _resume = False

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator starts at its first `next`. Lightning calls iter() before it sets the sampler's epoch, so workers
        # would otherwise prefetch in the order of another epoch.
        sampler = self.sampler
        if not isinstance(sampler, ResumableSampler):  # overfit_batches replaces it by a sequential sampler
            yield from super().__iter__()
            return
        # A position in another epoch belongs to an epoch that has ended.
        if not (self._resume and self._epoch == sampler.epoch):
            self._epoch, self._samples = sampler.epoch, 0
        self._resume = False
        sampler.start = self._samples // sampler.num_replicas
        for batch in super().__iter__():
            self._samples += (self.batch_size or 1) * sampler.num_replicas
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the position: the epoch, and the samples that all ranks together have yielded in it."""
        return {"epoch": self._epoch, "samples": self._samples}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next pass at a stored position if it is a pass over the same epoch."""
        self._epoch, self._samples, self._resume = state["epoch"], state["samples"], True
