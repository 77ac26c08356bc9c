"""Lightning's checkpoint files, whole or not at all."""

from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO

from vqlab.atomic_io import append, disk_errors, write_atomic

__all__ = ["AtomicCheckpointIO", "append", "disk_errors", "write_atomic"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written beside the old one and put in its place by one rename.

    A run that is killed, or that finds the disk full, while it writes keeps the checkpoint before.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``."""
        import torch

        with write_atomic(path) as file:
            torch.save(checkpoint, file)
