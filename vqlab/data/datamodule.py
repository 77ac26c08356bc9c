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
Workers = Annotated[int, Range(0, 1024)]
ValFraction = Annotated[float, Range(0, 1, open="both")]


class Split(Dataset[Batch], ABC):
    """Examples that are read a batch at a time."""

    by_epoch = False  # whether examples differ by epoch; their indices are then epoch * N + position

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitems__(self, indices: list[int]) -> Batch:
        """Return the examples at ``indices`` as one batch."""

    def __getitem__(self, index: int) -> Batch:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}


def draws_of_batch(seed: int, indices: list[int]) -> torch.Generator:
    """Return random numbers that depend on ``seed`` and the positions of a batch alone.

    So a resumed run and any number of processes draw the same: the hash of integers is the same in each process.
    """
    return torch.Generator().manual_seed(hash((seed, *indices)) % 2**63)


class SplitDataModule(Checked, lightning.LightningDataModule, ABC):
    """Training, validation and test examples, in batches that are dicts of tensors.

    Raises:
        UserError: If an argument is out of range, files are missing, damaged or of another shape, a download fails, or
            a split is empty or too small for one batch; for files that are read late, in ``setup``.
    """

    examples = "examples"  # plural noun for messages
    __signature__: inspect.Signature
    modality: str  # "image", "signal", "text" or "font", as of the models
    test_hint = "use `vqlab validate`"  # hint if there is no test split
    augment = strong_augment = False  # whether training batches go through :meth:`augmented`
    order: Callable[[int], Tensor] | None = None  # epoch -> order (N,) of the training examples; None shuffles them
    _splits: dict[str, Any]  # by name, for a source that does not define load_split
    _is_new = False  # whether the model was trained on another source

    def __init__(self, batch_size: Count, num_workers: Workers = 0, seed: NonNegativeInt = 0) -> None:
        super().__init__()
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Replace ``**common`` in the signature, which ``help`` shows, by the arguments of the base class."""
        super().__init_subclass__(**kwargs)
        own = list(inspect.signature(cls.__init__).parameters.values())[1:]
        if own and own[-1].kind is inspect.Parameter.VAR_KEYWORD:
            rest = inspect.signature(cls.__mro__[1]).parameters.values()
            names = {parameter.name for parameter in own}
            own[-1:] = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in rest if p.name not in names]
        cls.__signature__ = inspect.Signature(own)

    def __repr__(self) -> str:
        """Show the source and its arguments; Lightning's text would read the data of all loaders."""
        names = (name for name in inspect.signature(type(self)).parameters if name in vars(self))
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    __str__ = __repr__

    def load_split(self, split: str) -> Any:
        """Return the split ``train``, ``val`` or ``test``, or None if there is no test split."""
        return getattr(self, "_splits", {}).get(split)

    def load_train_val(self) -> tuple[Any, Any]:
        """Return the training and the validation split."""
        return self.load_split("train"), self.load_split("val")

    def load_test(self) -> Any:
        """Return the test split, or None."""
        return self.load_split("test")

    @abstractmethod
    def collate(self) -> Callable[[Batch], Batch]:
        """Return the function that converts a batch of a split to a batch for models; it runs in the workers."""

    @cached_property
    def _train_val(self) -> tuple[Split, Split]:
        return self.load_train_val()

    @cached_property
    def _test(self) -> Split | None:
        return self.load_test()

    def load_all(self) -> Split | None:
        """Return all examples in the order of the source, whose position is ``index``, or None if it is unknown."""
        return None

    def describe(self) -> Format:
        """Return the format of a batch as plain data; other data for the same model must have the same."""
        return {}

    def fitted(self) -> Format:
        """Return what is estimated from the training examples (vocabulary, statistics), as plain data."""
        return {}

    def option(self, name: str, value: Any) -> str:
        """Return the setting that sets an entry of :meth:`describe` to ``value``."""
        return f"{name}={value}"

    def apply_format(self, trained: Format) -> None:
        """Use the vocabulary, classes and statistics of a checkpoint, and compare the rest of its format."""
        self._is_new = trained.get("source", source_of(self)) != source_of(self)
        check_format(trained, self.describe(), self.option)

    def state_dict(self) -> dict[str, Any]:
        return {ENTRY: getattr(self._model, ENTRY, None) or self._full_format()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if isinstance(state_dict.get(ENTRY), dict):
            apply_stored_format(self, state_dict[ENTRY])

    @property
    def _model(self) -> Any:
        return getattr(self.trainer, "lightning_module", None)

    def _full_format(self) -> Format:
        """Return the format with the source, and with classes if the model has any."""
        found = self.describe() | self.fitted() | {"source": source_of(self)}
        if not getattr(self._model, "num_classes", 0):
            found.pop("classes", None)
        return found

    def setup(self, stage: str | None = None) -> None:
        """Compare the data with those of a trained model, and load the splits of the stage, once."""
        model = self._model
        begins = stage == "fit" and getattr(self.trainer, "ckpt_path", None) is None
        if not begins and getattr(model, ENTRY, None) is not None:
            apply_stored_format(self, getattr(model, ENTRY))
        if stage in (None, "fit", "validate"):
            _ = self._train_val
        if stage in (None, "test", "predict"):
            _ = self._test
        if stage == "fit":
            self._require_a_batch()  # before the run writes its first file
        if begins and model is not None:
            setattr(model, ENTRY, self._full_format())

    def train_examples(self) -> Split:
        """Return the examples of training batches, before they are shuffled."""
        return self._train_val[0]

    def train_dataloader(self) -> ResumableLoader:
        """Return shuffled batches of equal size, without the incomplete last batch of an epoch."""
        self._require_a_batch()
        data = self.train_examples()
        world, rank = self._world()
        sampler = ResumableSampler(data, world, rank, shuffle=True, seed=self.seed, drop_last=True)
        sampler.order, sampler.by_epoch = self.order, data.by_epoch
        return ResumableLoader(data, sampler=sampler, drop_last=True, **self._loading())

    def val_dataloader(self) -> DataLoader:
        return self._in_order(self._train_val[1])

    def test_dataloader(self) -> DataLoader:
        if self._test is None:
            raise UserError(f"{type(self).__name__} has no test {self.examples}: {self.test_hint}")
        return self._in_order(self._test)

    def predict_dataloader(self) -> DataLoader:
        """Return the test (else validation) examples, or all examples of a source that the model was not trained on."""
        if self._is_new and (whole := self.load_all()) is not None:
            rank_zero_info(f"the model was not trained on these data: predicting all {len(whole):,} {self.examples}")
            return self._in_order(whole)
        return self._in_order(self._train_val[1] if self._test is None else self._test)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment training batches on the device; the draws depend on (seed, epoch, batch, rank) alone."""
        augments = self.augment or self.strong_augment
        if not (augments and self.trainer is not None and self.trainer.training):
            return batch
        # Not trainer.global_step, which does not change while gradients accumulate.
        place = [self.seed, self.trainer.current_epoch, self.trainer.fit_loop.batch_idx + 1, self.trainer.global_rank]
        seed = int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1)
        return self.augmented(batch, torch.Generator(next(iter(batch.values())).device).manual_seed(seed))

    def augmented(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return a training batch with random changes."""
        return batch

    def _require_a_batch(self) -> None:
        count, (world, _) = len(self._train_val[0]), self._world()
        if count < self.batch_size * world:
            batch = f"no batch of {self.batch_size} on {world} device(s)"
            hint = f"set batch_size={max(1, count // world)} or smaller"
            raise UserError(f"{count} training {self.examples} fill {batch}: {hint}")

    def _world(self) -> tuple[int, int]:
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def _in_order(self, data: Split) -> DataLoader:
        world, rank = self._world()
        # Lightning's default sampler repeats examples to make the ranks even.
        sampler = UnrepeatedDistributedSampler(data, world, rank, shuffle=False) if world > 1 else None
        return DataLoader(data, sampler=sampler, **self._loading())

    def _loading(self) -> dict[str, Any]:
        workers = {"num_workers": self.num_workers, "persistent_workers": self.num_workers > 0}
        pinned = {"pin_memory": torch.cuda.is_available()}
        return {"batch_size": self.batch_size, "collate_fn": self.collate(), **workers, **pinned}


def apply_stored_format(data: Any, trained: Format) -> None:
    """Apply the data format of a checkpoint to a DataModule, or raise UserError if it differs or is damaged."""
    try:
        data.apply_format(trained)
    except UserError:
        raise
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise UserError(f"the checkpoint's {ENTRY} is damaged ({error}): use another file") from error


def split_positions(count: int, num_val: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the sorted positions of a random split into ``count - num_val`` and ``num_val`` examples."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[: count - num_val].sort().values, order[count - num_val :].sort().values


def draw_splits(
    count: int, val_fraction: float, test_fraction: float, seed: int, what: str, hint: str
) -> dict[str, Tensor]:
    """Return the sorted positions of each split of ``count`` examples, at least one for a fraction above 0."""
    num_val, num_test = (max(1, round(count * part)) if part else 0 for part in (val_fraction, test_fraction))
    if num_val + num_test >= count:
        raise UserError(f"{count} {what}(s) are too few to keep {num_val} for validation and {num_test} for test{hint}")
    train, held_out = split_positions(count, num_val + num_test, seed)
    val, test = (held_out[part] for part in split_positions(len(held_out), num_test, seed))
    return {"train": train, "val": val} | ({"test": test} if num_test else {})


def check_fractions(val_fraction: float, test_fraction: float, what: str) -> None:
    """Raise UserError unless both fractions leave some of ``what`` for training."""
    if not (val_fraction > 0 and test_fraction >= 0 and val_fraction + test_fraction < 1):
        given = f"val_fraction={val_fraction} and test_fraction={test_fraction}"
        raise UserError(f"{given} leave no training {what}, or none for validation: set both to 0.1")


def as_it_is(batch: Batch) -> Batch:
    """Return the batch."""
    return batch
