"""The base class of all models: a LightningModule that records its arguments."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import lightning
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.losses import Perceptual
from vqlab.metrics import FrechetDistance
from vqlab.serialization import ConfigMixin, to_config
from vqlab.training import load
from vqlab.training.batches import as_batch
from vqlab.training.learning_rate import check_lr, keep_configured_lr
from vqlab.training.lightning_fixes import is_log_step
from vqlab.training.steps import refuse_trainer_options


class Model(ConfigMixin, lightning.LightningModule, ABC):
    """The base class of all models: a LightningModule that can be rebuilt from its checkpoint.

    A model defines its own ``training_step`` and ``configure_optimizers``; :meth:`evaluate` serves validation and test.
    The constructor's arguments are the hyperparameters of checkpoints and loggers; ``lr`` and ``base_lr``, of which at
    most one may be given, become attributes.
    """

    modality: str  # kind of the data: image, signal, text or font
    default_lr: ClassVar[float]  # learning rate without lr and base_lr
    renamed_keys: ClassVar[dict[str, str]] = {}  # old prefixes of state-dict keys (until 0.1) -> new prefixes

    def __init__(self) -> None:
        super().__init__()
        self.lr, self.base_lr = self.init_args.get("lr"), self.init_args.get("base_lr")
        check_lr(self.lr, self.base_lr)
        spec = to_config(self)
        self.save_hyperparameters({"_class_path": spec["class_path"], **spec["init_args"]})

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: Any, map_location: Any = None, **parts: Any
    ) -> Any:
        """Load a model by :func:`vqlab.load`, and raise UserError if it is not of this class."""
        model = load(checkpoint_path, **parts)
        if not isinstance(model, cls):
            raise UserError(f"{checkpoint_path} holds a {type(model).__name__}, not a {cls.__name__}")
        return model if map_location is None else model.to(map_location)

    def start_evaluation(self) -> None:
        """Reset what an evaluation accumulates."""

    @abstractmethod
    def evaluate(self, batch: dict[str, Tensor], stage: str) -> None:
        """Log the metrics of a batch as ``<stage>/...``, and update the metrics of the whole set."""

    def finish_evaluation(self, stage: str) -> None:
        """Log the metrics of the whole set."""

    def log_means(self, stage: str, values: dict[str, Any], batch_size: int, prog_bar: bool = False) -> None:
        """Log the means of ``values`` over all batches and ranks as ``<stage>/<name>``."""
        named = {f"{stage}/{name}": value for name, value in values.items()}
        self.log_dict(named, prog_bar=prog_bar, on_epoch=True, sync_dist=True, batch_size=batch_size)

    def on_validation_epoch_start(self) -> None:
        self.start_evaluation()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.evaluate(batch, "test" if self.trainer.testing else "val")

    def on_validation_epoch_end(self) -> None:
        self.finish_evaluation("test" if self.trainer.testing else "val")

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def prepare_data(self) -> None:
        """Download the weights of LPIPS and of the Frechet distance, once per machine and before the run folder."""
        for part in self.modules():
            if isinstance(part, Perceptual) or (isinstance(part, FrechetDistance) and not self.trainer.predicting):
                part.load()

    def setup(self, stage: str) -> None:
        if stage == "fit" and not self.automatic_optimization and str(self.trainer.precision) == "16-mixed":
            reason = "16-mixed scales the losses of all networks by one factor and clips scaled gradients"
            raise UserError(f"{reason}: set --trainer.precision=bf16-mixed or 32-true")

    def on_train_start(self) -> None:
        keep_configured_lr(self)

    def log_terms(self, terms: dict[str, Tensor], prog_bar: str) -> None:
        """Log the terms of a batch as ``train/<name>`` every ``log_every_n_steps``, ``prog_bar`` in the bar, too."""
        if is_log_step(self.trainer, self.global_step + 1):
            terms = {name: value.detach() for name, value in terms.items()}
            self.log(f"train/{prog_bar}", terms.pop(prog_bar), prog_bar=True)
            self.log_dict({f"train/{name}": value for name, value in terms.items()})

    def configure_callbacks(self) -> list[lightning.Callback]:
        """Add no callbacks; Lightning calls this before its own check of clipping and accumulation."""
        if not self.automatic_optimization and self.trainer.training:
            refuse_trainer_options(self.trainer.gradient_clip_val, self.trainer.accumulate_grad_batches, self)
        return []

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Accept state dicts with the keys of version 0.1."""
        for old, new in self.renamed_keys.items():
            for key in [key for key in state_dict if key.startswith(prefix + old)]:
                state_dict[prefix + new + key.removeprefix(prefix + old)] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _on_before_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        """Convert the batches of a user's own DataLoader to dicts.

        The public hook of this name makes Lightning warn whenever a DataModule is used.
        """
        batch = super()._on_before_batch_transfer(batch, dataloader_idx)
        trainer: Any = self._trainer
        if trainer is None or hasattr(getattr(trainer, "datamodule", None), "modality"):
            return batch  # an example input of an export, or of vqlab's own data
        value_range, dtype = getattr(self, "value_range", None), next(self.parameters()).dtype
        return as_batch(batch, self.modality, value_range, dtype, need_target=not trainer.predicting)

    def __dir__(self) -> Iterable[str]:
        """Leave out ``trainer`` if there is none: ``torch.jit.trace`` reads every attribute, and this one raises."""
        return [name for name in super().__dir__() if name != "trainer" or self._trainer is not None]


@contextmanager
def evaluating(*nets: nn.Module) -> Iterator[None]:
    """Put ``nets`` into eval mode inside the block: no dropout, and batch norm's running statistics."""
    training = [net for net in nets if net.training]
    for net in training:
        net.eval()
    try:
        yield
    finally:
        for net in training:
            net.train()
