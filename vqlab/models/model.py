"""What all models are: LightningModules that record their arguments."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import lightning
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.losses.perceptual import Perceptual
from vqlab.metrics.images.frechet import FrechetDistance
from vqlab.serialization import ConfigMixin, to_config
from vqlab.training.batches import as_batch
from vqlab.training.checkpoint import load
from vqlab.training.learning_rate import check_lr, keep_configured_lr
from vqlab.training.lightning_fixes import is_log_step
from vqlab.training.manual import refuse_trainer_options, refuse_unsound


class Model(ConfigMixin, lightning.LightningModule, ABC):
    """The base class of all models: a LightningModule that can be rebuilt from its checkpoint.

    A model holds its own ``training_step`` and ``configure_optimizers``; :meth:`evaluate` serves validation and test.
    The constructor's arguments are the hyperparameters of checkpoints and loggers; ``lr`` and ``base_lr``, of which at
    most one may be given, become attributes.
    """

    modality: str  # what it is made for: image, signal, text or font
    default_lr: ClassVar[float]  # learning rate without lr and base_lr
    renamed_keys: ClassVar[dict[str, str]] = {}  # prefixes of state-dict keys until 0.1, and what they are now

    def __init__(self) -> None:
        super().__init__()
        self.lr, self.base_lr = self.init_args.get("lr"), self.init_args.get("base_lr")
        check_lr(self.lr, self.base_lr)
        spec = to_config(self)
        self.save_hyperparameters({"_class_path": spec["class_path"], **spec["init_args"]})

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # of its arguments what load needs
        cls, checkpoint_path: Any, map_location: Any = None, **parts: Any
    ) -> Any:
        """Load a model of this class, as :func:`vqlab.load` does, whose ``parts`` these are.

        Raises:
            UserError: As :func:`vqlab.load`, and if the checkpoint holds a model of another class.
        """
        model = load(checkpoint_path, **parts)
        if not isinstance(model, cls):
            raise UserError(f"{checkpoint_path} holds a {type(model).__name__}, not a {cls.__name__}")
        return model if map_location is None else model.to(map_location)

    # Evaluation

    def start_evaluation(self) -> None:
        """Get ready for the first batch of an evaluation."""

    @abstractmethod
    def evaluate(self, batch: dict[str, Tensor], stage: str) -> None:
        """Log a batch as ``val/...`` or ``test/...``, by ``stage``, or collect what the whole set is needed for."""

    def finish_evaluation(self, stage: str) -> None:
        """Log what needs the whole set."""

    def log_means(self, stage: str, values: dict[str, Any], batch_size: int, prog_bar: bool = False) -> None:
        """Log the means of ``values`` over all batches and ranks as ``<stage>/<name>``."""
        named = {f"{stage}/{name}": value for name, value in values.items()}
        self.log_dict(named, prog_bar=prog_bar, on_epoch=True, sync_dist=True, batch_size=batch_size)

    def on_validation_epoch_start(self) -> None:
        """See :meth:`start_evaluation`."""
        self.start_evaluation()

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log ``val/...``."""
        self.evaluate(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log ``test/...``."""
        self.evaluate(batch, "test")

    def on_validation_epoch_end(self) -> None:
        """See :meth:`finish_evaluation`."""
        self.finish_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """See :meth:`finish_evaluation`."""
        self.finish_evaluation("test")

    # Training

    def prepare_data(self) -> None:
        """Fetch what LPIPS and the Frechet distance need, once per machine, before anything of the run is written."""
        for part in self.modules():
            if isinstance(part, Perceptual) or (isinstance(part, FrechetDistance) and not self.trainer.predicting):
                part.load()

    def setup(self, stage: str) -> None:
        """Refuse Trainer settings that cannot be right for a model that steps its optimizers itself."""
        if stage == "fit" and not self.automatic_optimization:
            refuse_unsound(self.trainer)

    def on_train_start(self) -> None:
        """Resume with the learning rate that is configured now."""
        keep_configured_lr(self)

    def log_terms(self, terms: dict[str, Tensor], prog_bar: str) -> None:
        """Log the terms of a batch as ``train/<name>`` where a line of the log is due, one in the progress bar, too."""
        if is_log_step(self.trainer, self.global_step + 1):
            terms = {name: value.detach() for name, value in terms.items()}
            self.log(f"train/{prog_bar}", terms.pop(prog_bar), prog_bar=True)
            self.log_dict({f"train/{name}": value for name, value in terms.items()})

    def configure_callbacks(self) -> list[lightning.Callback]:
        """Add none; Lightning calls this before it refuses clipping and accumulation in words of its own."""
        if not self.automatic_optimization and self.trainer.training:
            accumulate = self.trainer.accumulate_grad_batches
            refuse_trainer_options(self.trainer.gradient_clip_val, accumulate, self)
        return []

    # Repairs

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take state dicts whose keys have the names that they had until 0.1."""
        for old, new in self.renamed_keys.items():
            for key in [key for key in state_dict if key.startswith(prefix + old)]:
                state_dict[prefix + new + key.removeprefix(prefix + old)] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _on_before_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        """Bring the batches of a user's own DataLoader into the form of vqlab's, after the hook of that name.

        In the hook itself, Lightning would warn of it with every DataModule.
        """
        batch = super()._on_before_batch_transfer(batch, dataloader_idx)
        trainer: Any = self._trainer
        if trainer is None or hasattr(getattr(trainer, "datamodule", None), "modality"):
            return batch  # an example input of an export, or of vqlab's own data
        dtype = next(self.parameters()).dtype
        value_range = getattr(self, "value_range", None)
        return as_batch(batch, self.modality, value_range, dtype, need_target=not trainer.predicting)

    def __dir__(self) -> Iterable[str]:
        """Leave out ``trainer`` while there is none: torch.jit.trace reads every attribute, and Lightning raises."""
        return [name for name in super().__dir__() if name != "trainer" or self._trainer is not None]


@contextmanager
def evaluating(*nets: nn.Module) -> Iterator[None]:
    """Put ``nets`` into eval mode for a while: without dropout, and with batch norm's running statistics."""
    modes = [net.training for net in nets]
    for net in nets:
        net.eval()
    try:
        yield
    finally:
        for net, mode in zip(nets, modes, strict=True):
            net.train(mode)
