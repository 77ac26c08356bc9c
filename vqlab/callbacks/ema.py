"""Exponential moving average of the weights, counted in batches."""

from typing import Annotated, Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vqlab.validation import Checked, Range


class EMA(Checked, WeightAveraging):
    """Average the weights after each step; validate, test and save with the average.

    w_avg <- d w_avg + (1 - d) w with d = min(decay, (1 + n) / (10 + n)) after n updates; the first copies the weights.
    The warm-up keeps the random initialization out of the average of a short run; d reaches 0.999 at n = 8,990.
    Buffers (codebooks, batch-norm statistics) are copied: they are running means already.

    Args:
        decay: Decay per optimizer step, warmed up by (1 + n) / (10 + n); null disables the average.

    Raises:
        UserError: If the decay lies outside (0, 1).
    """

    def __init__(self, decay: Annotated[float, Range(0, 1, open="both")] | None = 0.999) -> None:
        self.decay = decay
        self.swapped = False  # True while the model holds the average, and the average model the weights
        super().__init__(use_buffers=False, multi_avg_fn=self._update_average)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._average_model = None  # validate() and test() after a fit evaluate the weights of the model
        if self.decay is not None:
            super().setup(trainer, pl_module, stage)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return self.decay is not None and step_idx is not None

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        """Update the average, unless a model with manual optimization only accumulated the batch."""
        if getattr(pl_module, "optimizer_stepped", True):
            super().on_train_batch_end(trainer, pl_module, *args, **kwargs)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._copy_before_first_update(pl_module)
        super().on_validation_epoch_start(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the weights if a validation is interrupted: a checkpoint may follow."""
        if self.swapped:
            self._swap_models(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the average into the model, unless it was never updated."""
        if self._average_model is not None and int(self._average_model.n_averaged) > 0:
            super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint) -> None:
        if self._average_model is not None:
            self._copy_before_first_update(pl_module)
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(self, trainer, pl_module, checkpoint) -> None:
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def _swap_models(self, pl_module: LightningModule) -> None:
        super()._swap_models(pl_module)
        self.swapped = not self.swapped

    def _copy_before_first_update(self, pl_module: LightningModule) -> None:
        """Copy the model again: k-means may have changed buffers since ``setup``."""
        if self._average_model is not None and int(self._average_model.n_averaged) == 0:
            self._average_model.module.load_state_dict(pl_module.state_dict())

    def _update_average(self, averages: list[Tensor], weights: list[Tensor], updates: Tensor) -> None:
        n = int(updates)
        get_ema_multi_avg_fn(min(self.decay or 0.0, (1 + n) / (10 + n)))(averages, weights, updates)
