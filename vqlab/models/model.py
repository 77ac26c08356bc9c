"""What all models are: objects that record their arguments, and LightningModules."""

from collections.abc import Iterable
from typing import Any

import lightning

from vqlab.serialization import ConfigMixin
from vqlab.training.batches import as_batch
from vqlab.training.manual import refuse_trainer_options


class Model(ConfigMixin, lightning.LightningModule):
    """The base class of all models.

    Attributes:
        modality: What it is made for: ``image``, ``signal``, ``text`` or ``font``.
    """

    modality: str

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

    def configure_callbacks(self) -> list[lightning.Callback]:
        """Add none; Lightning calls this before it refuses clipping and accumulation in words of its own."""
        if not self.automatic_optimization and self.trainer.training:
            accumulate = self.trainer.accumulate_grad_batches
            refuse_trainer_options(self.trainer.gradient_clip_val, accumulate, self, command_line=False)
        return []

    def __dir__(self) -> Iterable[str]:
        """Leave out ``trainer`` while there is none: torch.jit.trace reads every attribute, and Lightning raises."""
        return [name for name in super().__dir__() if name != "trainer" or self._trainer is not None]
