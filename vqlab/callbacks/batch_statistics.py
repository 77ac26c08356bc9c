"""Equal batch-norm statistics on all ranks."""

from typing import Any

import lightning
from torch.nn.modules.batchnorm import _BatchNorm

from vqlab.nn.distributed import means_over_ranks


class BatchStatistics(lightning.Callback):
    """Average the running statistics of batch norm over the ranks after each training batch.

    Each rank normalises its own part of the batch. Without the average each would also evaluate with own statistics,
    and a checkpoint would hold those of rank 0 only.
    """

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *args: Any) -> None:
        """Average."""
        if trainer.world_size == 1:
            return
        parts = [part for part in pl_module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
        statistics = [value for part in parts for value in (part.running_mean, part.running_var) if value is not None]
        if statistics:
            for value, mean in zip(statistics, means_over_ranks(statistics), strict=True):
                value.copy_(mean)
