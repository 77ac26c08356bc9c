"""Random numbers that depend on the step alone, so that a resumed run draws what an uninterrupted one would."""

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
        """Seed the generators of the CPU and of all GPUs."""
        self._seed(trainer, batch_idx)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Seed them likewise, as for the batch that would follow."""
        if trainer.state.fn == "fit":
            self._seed(trainer, 0)

    @staticmethod
    def _seed(trainer: lightning.Trainer, batch_idx: int) -> None:
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        # Batches that are accumulated for one step share its number, but must not share their noise.
        accumulate = trainer.accumulate_grad_batches  # 1 where the model steps by itself, whose global_step is batches
        number = (seed * 1_000_003 + trainer.global_step) * accumulate + batch_idx % accumulate
        torch.manual_seed(number * trainer.world_size + trainer.global_rank)
