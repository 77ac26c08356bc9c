"""Exponential moving average of the weights, counted in batches."""

from functools import partial
from typing import Any

import lightning
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vqlab.errors import UserError


class EMA(WeightAveraging):
    """Average the weights after each step; validate, test and save with the average.

    w_avg <- d w_avg + (1 - d) w with d = min(decay, (1 + n) / (10 + n)) after n updates; the first copies the weights.
    So the average of a short run is of its trained weights and not of their random start; d reaches 0.999 at n = 8,990.
    n is stored in the checkpoint. Buffers (codebooks, batch-norm statistics) are copied, not averaged: they are running
    means already. Lightning's own ``EMAWeightAveraging`` looks at a counter that two optimizers advance by two, can so
    never update, and then copies the untouched average over the trained weights; this class updates at every batch that
    stepped and copies nothing that it has not averaged.

    Args:
        decay: Decay per optimizer step, warmed up by (1 + n) / (10 + n); null switches the average off.

    Raises:
        UserError: If the decay lies outside (0, 1).
    """

    def __init__(self, decay: float | None = 0.999) -> None:
        if decay is not None and not 0 < decay < 1:
            raise UserError(f"decay must lie in (0, 1), got {decay}: set --ema.decay=0.999, or null for no average")
        self.decay = decay
        self.swapped = False  # whether the model holds the average, and the average model the weights
        super().__init__(use_buffers=False, multi_avg_fn=partial(move, decay or 0.0))

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Make the averaged copy, unless switched off."""
        self._average_model = None  # a validation or test after a fit is of the weights that it is given
        if self.decay is not None:
            super().setup(trainer, pl_module, stage)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Average after every step."""
        return self.decay is not None and step_idx is not None

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        """Average, unless the batch was only accumulated by a model that steps by itself."""
        if getattr(pl_module, "optimizer_stepped", True):
            super().on_train_batch_end(trainer, pl_module, *args, **kwargs)

    def on_validation_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Validate with the average."""
        self._begin(pl_module)
        super().on_validation_epoch_start(trainer, pl_module)

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Put the weights back where a validation is left early, for the checkpoint that may follow."""
        if self.swapped:
            self._swap_models(pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Leave the averaged weights in the model, if there is an average."""
        if self._average_model is not None and int(self._average_model.n_averaged) > 0:
            super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint) -> None:
        """Store the average as the model's weights."""
        if self._average_model is not None:
            self._begin(pl_module)
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(self, trainer, pl_module, checkpoint) -> None:
        """Restore average and current weights."""
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def _swap_models(self, pl_module: lightning.LightningModule) -> None:
        super()._swap_models(pl_module)
        self.swapped = not self.swapped

    def _begin(self, pl_module: lightning.LightningModule) -> None:
        """Before the first step the average is the model itself, whose buffers may have changed since (k-means)."""
        if self._average_model is not None and int(self._average_model.n_averaged) == 0:
            self._average_model.module.load_state_dict(pl_module.state_dict())


def move(decay: float, averages: list[Tensor], weights: list[Tensor], updates: Tensor) -> None:
    """Move averages towards the weights, in place, after ``updates`` updates."""
    n = int(updates)
    get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averages, weights, updates)
