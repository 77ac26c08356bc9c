"""Random numbers that depend on the step alone, so that a resumed run draws what an uninterrupted one would."""

import os
from typing import Any

import lightning
import torch


class StepSeed(lightning.Callback):
    """Seed torch before each training batch from (run seed, step, batch of the step, rank); nothing is stored."""

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the generators of the CPU and of all GPUs."""
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        # Batches that are accumulated for one step share its number, but must not share their noise.
        accumulate = trainer.accumulate_grad_batches  # 1 where the model steps by itself, whose global_step is batches
        number = (seed * 1_000_003 + trainer.global_step) * accumulate + batch_idx % accumulate
        torch.manual_seed(number * trainer.world_size + trainer.global_rank)
