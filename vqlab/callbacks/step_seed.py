"""Random numbers that depend on the step alone, so that a resumed run draws what an uninterrupted one would."""

import os
from typing import Any

import lightning
import torch


class StepSeed(lightning.Callback):
    """Seed torch before each training batch from (run seed, step, rank); nothing has to be stored."""

    def on_train_batch_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Seed the generators of the CPU and of all GPUs."""
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        torch.manual_seed((seed * 1_000_003 + trainer.global_step) * trainer.world_size + trainer.global_rank)
