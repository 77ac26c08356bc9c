"""Base of all DataModules: splits that are loaded once, and loaders that a resumed run continues."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Annotated, Any

import lightning
import numpy as np
import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vqlab.data.resumable import ResumableLoader, ResumableSampler
from vqlab.errors import UserError
from vqlab.training.data_format import ENTRY, Format, check_format, source_of
from vqlab.validation import Checked, Count, NonNegativeInt, Range

Batch = dict[str, Tensor]
Workers = Annotated[int, Range(0, 1024)]  # each is a process with a copy of the interpreter
ValFraction = Annotated[float, Range(0, 1, open="both")]


class Split(Dataset[Batch], ABC):
    """Examples that are read a batch at a time."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitems__(self, indices: list[int]) -> Batch:
        """Return the examples at ``indices`` as one batch."""

    def __getitem__(self, index: int) -> Batch:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}


class SplitDataModule(Checked, lightning.LightningDataModule, ABC):
    """Training, validation and test examples, in batches that are dicts of tensors.

    Raises:
        UserError: If an argument is out of range, or (in ``setup``) the training split is too small for one batch.
    """

    examples = "examples"  # what messages call them
    __signature__: inspect.Signature
    modality: str  # "image", "signal", ...: the models that fit
    test_mend = "use `vqlab validate`"  # hint if there is no test split
    _is_new = False  # whether the model was trained on data from another source

    def __init__(self, batch_size: Count, num_workers: Workers = 0, seed: NonNegativeInt = 0) -> None:
        super().__init__()
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Put the arguments behind ``**common`` into the signature that ``help`` and notebooks show."""
        super().__init_subclass__(**kwargs)
        own = list(inspect.signature(cls.__init__).parameters.values())[1:]
        if own and own[-1].kind is inspect.Parameter.VAR_KEYWORD:
            rest = inspect.signature(cls.__mro__[1]).parameters.values()
            names = {parameter.name for parameter in own}
            own[-1:] = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in rest if p.name not in names]
        cls.__signature__ = inspect.Signature(own)

    def __repr__(self) -> str:
        """Show the source and its arguments; Lightning's own text reads the data of all loaders."""
        names = (name for name in inspect.signature(type(self)).parameters if name in vars(self))
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    __str__ = __repr__

    @abstractmethod
    def load_train_val(self) -> tuple[Split, Split]:
        """Return the training and the validation split."""

    def load_test(self) -> Split | None:
        """Return the test split, if there is one."""
        return None

    @abstractmethod
    def collate(self) -> Callable[[Batch], Batch]:
        """Return the function that turns a batch of a split into one for models; it runs in the workers."""

    def order(self) -> Callable[[int], Tensor] | None:
        """Return a function of the epoch that gives the order (N,) of the training examples; None shuffles them."""
        return None

    @cached_property
    def _train_val(self) -> tuple[Split, Split]:
        return self.load_train_val()

    @cached_property
    def _test(self) -> Split | None:
        return self.load_test()

    def load_all(self) -> Split | None:
        """Return all examples in the order of the source, with ``index`` their place in it, if that is known."""
        return None

    def describe(self) -> Format:
        """Return what the numbers of a batch mean, as plain data; other data for the same model must agree."""
        return {}

    def fitted(self) -> Format:
        """Return what is estimated from the training examples (vocabulary, statistics), as plain data."""
        return {}

    def option(self, name: str, value: Any) -> str:
        """Return the setting that gives an entry of :meth:`describe` a ``value``."""
        return f"{name}={value}"

    def apply_format(self, trained: Format) -> None:
        """Use vocabulary, classes and statistics of a checkpoint's training data, and compare the rest."""
        self._is_new = trained.get("source", source_of(self)) != source_of(self)
        check_format(trained, self.describe(), self.option)

    def state_dict(self) -> dict[str, Any]:
        """Return the description of the data, for the checkpoint."""
        return {ENTRY: getattr(self._model, ENTRY, None) or self._full_format()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Apply the data format in the checkpoint that a Trainer restores."""
        if isinstance(state_dict.get(ENTRY), dict):
            apply_stored_format(self, state_dict[ENTRY])

    @property
    def _model(self) -> Any:
        return getattr(self.trainer, "lightning_module", None)

    def _full_format(self) -> Format:
        """Return the description with the source; classes are left out for a model that knows no classes."""
        found = self.describe() | self.fitted() | {"source": source_of(self)}
        if not getattr(self._model, "num_classes", 0):
            found.pop("classes", None)
        return found

    def setup(self, stage: str | None = None) -> None:
        """Load what the stage needs, once. The data of a trained model are compared with its training data first."""
        model = self._model
        begins = stage == "fit" and getattr(self.trainer, "ckpt_path", None) is None
        if model is not None and not begins and getattr(model, ENTRY, None) is not None:
            apply_stored_format(self, getattr(model, ENTRY))
        if stage in (None, "fit", "validate"):
            _ = self._train_val
        if stage in (None, "test", "predict"):
            _ = self._test
        if stage == "fit":
            self._require_a_batch()  # now, before the run writes its first file
        if begins and model is not None:
            setattr(model, ENTRY, self._full_format())

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled batches of equal size; the incomplete last batch of an epoch is dropped."""
        self._require_a_batch()
        data = self._train_val[0]
        world, rank = self._world()
        sampler = ResumableSampler(data, world, rank, shuffle=True, seed=self.seed, drop_last=True)
        sampler.order = self.order()
        return ResumableLoader(data, sampler=sampler, drop_last=True, **self._loading())

    def val_dataloader(self) -> DataLoader:
        """All validation examples, once and in order."""
        return self._in_order(self._train_val[1])

    def test_dataloader(self) -> DataLoader:
        """All test examples, once and in order."""
        if self._test is None:
            raise UserError(f"{type(self).__name__} has no test {self.examples}: {self.test_mend}")
        return self._in_order(self._test)

    def predict_dataloader(self) -> DataLoader:
        """The test examples, else those of validation; all examples of data that are new to the model."""
        if self._is_new and (whole := self.load_all()) is not None:
            rank_zero_info(f"these are not the data that the model was trained on: all {len(whole):,} {self.examples}")
            return self._in_order(whole)
        return self._in_order(self._train_val[1] if self._test is None else self._test)

    def _generator(self, device: torch.device) -> torch.Generator:
        """Return the generator of the current training batch, seeded by (seed, epoch, batch, rank) alone."""
        assert self.trainer is not None
        # The batch, not trainer.global_step, which does not change while gradients accumulate.
        place = [self.seed, self.trainer.current_epoch, self.trainer.fit_loop.batch_idx + 1, self.trainer.global_rank]
        generator = torch.Generator(device)
        return generator.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1))

    def _require_a_batch(self) -> None:
        count, (world, _) = len(self._train_val[0]), self._world()
        if count < self.batch_size * world:
            raise UserError(
                f"{count} training {self.examples} fill no batch of {self.batch_size} on {world} device(s): "
                f"set batch_size={max(1, count // world)} or smaller"
            )

    def _world(self) -> tuple[int, int]:
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def _in_order(self, data: Split) -> DataLoader:
        world, rank = self._world()
        # Lightning's default sampler repeats examples to make the ranks even.
        sampler = UnrepeatedDistributedSampler(data, world, rank, shuffle=False) if world > 1 else None
        return DataLoader(data, sampler=sampler, **self._loading())

    def _loading(self) -> dict[str, Any]:
        # No worker_init_fn: nothing here draws random numbers in a worker.
        return {
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
            "collate_fn": self.collate(),
        }


def apply_stored_format(data: Any, trained: Format) -> None:
    """Apply the data format of a checkpoint to a DataModule; raise UserError if it differs or is damaged."""
    try:
        data.apply_format(trained)
    except UserError:
        raise
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise UserError(f"the checkpoint's {ENTRY} is damaged ({error}): use another file") from error


def split_positions(count: int, num_val: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the sorted positions of a seeded split into ``count - num_val`` and ``num_val``."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[: count - num_val].sort().values, order[count - num_val :].sort().values


def draw_splits(
    count: int, val_fraction: float, test_fraction: float, seed: int, what: str, hint: str
) -> dict[str, Tensor]:
    """Return the sorted positions of each split of ``count``, at least one where a fraction is above 0."""
    num_val, num_test = (max(1, round(count * part)) if part else 0 for part in (val_fraction, test_fraction))
    if num_val + num_test >= count:
        raise UserError(f"{count} {what}(s) are too few to keep {num_val} for validation and {num_test} for test{hint}")
    train, held_out = split_positions(count, num_val + num_test, seed)
    val, test = (held_out[part] for part in split_positions(len(held_out), num_test, seed))
    return {split: rows for split, rows in (("train", train), ("val", val), ("test", test)) if len(rows)}


def check_fractions(val_fraction: float, test_fraction: float, what: str) -> None:
    """Raise UserError unless both fractions leave some of ``what`` for training."""
    if not (val_fraction > 0 and test_fraction >= 0 and val_fraction + test_fraction < 1):
        raise UserError(
            f"val_fraction {val_fraction} and test_fraction {test_fraction} leave no training {what}, or none for "
            "validation: set val_fraction=0.1 test_fraction=0.1"
        )


def as_it_is(batch: Batch) -> Batch:
    """Return the batch."""
    return batch
