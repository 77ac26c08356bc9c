"""Training batches in an order that depends on (seed, epoch) alone, which a resumed run continues."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

PART = 2**16  # positions that are Python integers at a time: a list of all takes five times the memory of a tensor


class ResumableSampler(DistributedSampler):
    """A ``DistributedSampler`` that can skip the beginning of an epoch.

    R processes with batches of B see the same batches as one process with batches of R x B. Lightning calls
    ``set_epoch``; in a plain loop call ``loader.sampler.set_epoch(epoch)``, else every epoch has the same order.
    """

    start = 0  # samples of this rank that the next pass skips
    order: Callable[[int], Tensor] | None = None  # of an epoch, instead of a random order; with drop_last

    def __iter__(self) -> Iterator[int]:
        if self.order is None:
            return islice(super().__iter__(), self.start, None)
        mine = self.order(self.epoch)[self.rank : self.total_size : self.num_replicas]
        return (position for part in mine[self.start :].split(PART) for position in part.tolist())


class ResumableLoader(DataLoader):
    """A ``DataLoader`` over a :class:`ResumableSampler` whose place in the epoch can be stored and restored.

    Lightning saves ``state_dict()`` with each checkpoint and restores it before the first batch of a resumed run.
    ``len`` is that of the whole epoch, because Lightning counts the earlier batches as fetched. The place is the epoch
    and the samples yielded on all ranks, so it is valid for another number of devices with the same global batch.
    """

    # On the class: with overfit_batches Lightning re-creates loaders from the arguments of DataLoader.
    _epoch = 0
    _samples = 0  # yielded in this epoch, on all ranks
    _resume = False

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator, which starts at its first `next`: Lightning calls iter() before it sets the sampler's epoch, and
        # workers would prefetch in the order of another epoch.
        sampler = self.sampler
        if not isinstance(sampler, ResumableSampler):  # overfit_batches puts a sequential sampler in its place
            yield from super().__iter__()
            return
        # A place in another epoch is that of an epoch which ended, or was cut by limit_train_batches.
        if not (self._resume and self._epoch == sampler.epoch):
            self._epoch, self._samples = sampler.epoch, 0
        self._resume = False
        sampler.start = self._samples // sampler.num_replicas
        for batch in super().__iter__():
            self._samples += (self.batch_size or 1) * sampler.num_replicas
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the place: the epoch, and the samples that all ranks together have yielded in it."""
        return {"epoch": self._epoch, "samples": self._samples}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next pass at a stored place, if it is a pass over the same epoch."""
        self._epoch, self._samples, self._resume = state["epoch"], state["samples"], True
