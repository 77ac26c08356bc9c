"""Metrics of drawn images, in ``vqlab test``."""

from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor

from vqlab.errors import UserError
from vqlab.metrics import GenerationMetrics
from vqlab.metrics.images.features import FeatureNetName
from vqlab.validation import Checked, NonNegativeInt


class SampleMetrics(Checked, Callback):
    """Draw as many images as there are test images, and log their :class:`~vqlab.GenerationMetrics` as ``test/...``.

    For any model that draws images, with the default arguments of its ``sample``:
    ``vqlab test --ckpt_path ... --trainer.callbacks+=SampleMetrics``. ``vqlab sample --metrics`` has options for the
    draws and the reference images.

    Args:
        net: As in :class:`~vqlab.GenerationMetrics`.
        backbone: As in :class:`~vqlab.GenerationMetrics`.
        seed: Seed of the draws (plus the rank) and of the subsets of the kernel distance.

    Raises:
        UserError: If the model does not draw images, or as :class:`~vqlab.GenerationMetrics`.
    """

    generator: torch.Generator

    def __init__(
        self, net: FeatureNetName = "efficientnet_lite0", backbone: str | None = None, seed: NonNegativeInt = 0
    ) -> None:
        self.seed, self.metrics = seed, GenerationMetrics(net, backbone, seed)

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Check the model and load the network before the first batch."""
        if stage != "test":
            return
        if not (hasattr(pl_module, "sample") and hasattr(pl_module, "value_range")):
            name = type(pl_module).__name__
            raise UserError(f"{name} does not draw images: leave --trainer.callbacks+=SampleMetrics out")
        self.metrics.load()

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.metrics.to(pl_module.device).reset()
        self.generator = torch.Generator().manual_seed(self.seed + trainer.global_rank)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: dict[str, Tensor], *args: Any
    ) -> None:
        drawn = pl_module.sample(len(batch["image"]), generator=self.generator)
        for images, real in ((batch["image"], True), (drawn, False)):
            self.metrics.update(pl_module.value_range.decode(images.float()), real=real)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        values = {f"test/{name}": value.float() for name, value in self.metrics.compute().items()}
        pl_module.log_dict(values, sync_dist=True)
