"""Random numbers that depend on the step alone, so that a resumed run equals an uninterrupted one."""

import os
from typing import Any

import lightning
import torch


class StepSeed(lightning.Callback):
    """Seed torch from (run seed, step, batch of the step, rank) before each training batch and validation.

    Nothing is stored. A run that was stopped in a validation repeats it with the same random numbers.
    """

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the generators of all devices."""
        self._seed(trainer, batch_idx)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Seed them as for the batch that would follow."""
        if trainer.state.fn == "fit":
            self._seed(trainer, 0)

    @staticmethod
    def _seed(trainer: lightning.Trainer, batch_idx: int) -> None:
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        # Accumulated batches share the number of their step, but must not share their noise.
        accumulate = trainer.accumulate_grad_batches  # 1 for manual optimization, where global_step counts batches
        number = (seed * 1_000_003 + trainer.global_step) * accumulate + batch_idx % accumulate
        torch.manual_seed(number * trainer.world_size + trainer.global_rank)
