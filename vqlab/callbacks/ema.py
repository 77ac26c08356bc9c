"""Exponential moving average of the weights, counted in batches."""

from functools import partial
from typing import Annotated, Any

import lightning
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vqlab.validation import Checked, Range


class EMA(Checked, WeightAveraging):
    """Average the weights after each step; validate, test and save with the average.

    w_avg <- d w_avg + (1 - d) w with d = min(decay, (1 + n) / (10 + n)) after n updates; the first copies the weights.
    So the average of a short run is of its trained weights, not of their random initialisation; d reaches 0.999 at
    n = 8,990. Buffers (codebooks, batch-norm statistics) are running means already, and copied.

    Args:
        decay: Decay per optimizer step, warmed up by (1 + n) / (10 + n); null disables the average.

    Raises:
        UserError: If the decay lies outside (0, 1).
    """

    def __init__(self, decay: Annotated[float, Range(0, 1, open="both")] | None = 0.999) -> None:
        self.decay = decay
        self.swapped = False  # whether the model holds the average, and the average model the weights
        super().__init__(use_buffers=False, multi_avg_fn=partial(update_average, decay or 0.0))

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Create the average, unless disabled."""
        self._average_model = None  # a validation or test after a fit uses the weights that it is given
        if self.decay is not None:
            super().setup(trainer, pl_module, stage)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Average after every step."""
        return self.decay is not None and step_idx is not None

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        """Average, unless a model with manual optimization only accumulated the batch."""
        if getattr(pl_module, "optimizer_stepped", True):
            super().on_train_batch_end(trainer, pl_module, *args, **kwargs)

    def on_validation_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Validate with the average."""
        self._copy_before_first_update(pl_module)
        super().on_validation_epoch_start(trainer, pl_module)

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Put the weights back where a validation is interrupted, for the checkpoint that may follow."""
        if self.swapped:
            self._swap_models(pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Leave the averaged weights in the model, if there is an average."""
        if self._average_model is not None and int(self._average_model.n_averaged) > 0:
            super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint) -> None:
        """Store the average as the model's weights."""
        if self._average_model is not None:
            self._copy_before_first_update(pl_module)
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(self, trainer, pl_module, checkpoint) -> None:
        """Restore average and current weights."""
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def _swap_models(self, pl_module: lightning.LightningModule) -> None:
        super()._swap_models(pl_module)
        self.swapped = not self.swapped

    def _copy_before_first_update(self, pl_module: lightning.LightningModule) -> None:
        """Copy the model, whose buffers may have changed since ``setup`` (k-means)."""
        if self._average_model is not None and int(self._average_model.n_averaged) == 0:
            self._average_model.module.load_state_dict(pl_module.state_dict())


def update_average(decay: float, averages: list[Tensor], weights: list[Tensor], updates: Tensor) -> None:
    """Update ``averages`` in place with ``weights``, after ``updates`` updates."""
    n = int(updates)
    get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averages, weights, updates)
