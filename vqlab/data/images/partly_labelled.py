"""Many images, of which a few are labelled: the data of semi-supervised learning."""

from typing import Any

import torch
from torch import Tensor

from vqlab.data.datamodule import Batch, Split
from vqlab.errors import UserError


class PartlyLabelled(Split):
    """All images of a split without their labels, and with each batch some of the few labelled ones.

    ``image`` runs through the split and has label -1; ``labelled_image`` and ``labelled_label`` are drawn from the
    labelled images, each equally often up to the remainder. The draw depends on ``seed`` and the batch's own positions
    alone, so it is the same in a resumed run and for any number of processes.

    Args:
        data: A split with ``labels``.
        chosen: Positions of the labelled images.
        batch_size: Labelled images with each batch.
        seed: Seed of the draws.

    Example:
        >>> from vqlab.data.images.base import ImageTensors
        >>> data = ImageTensors(torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1, 0, 1]))
        >>> batch = PartlyLabelled(data, choose_labelled(data.labels, 1, seed=0), batch_size=4).__getitems__([3, 5])
        >>> batch["label"].tolist(), sorted(batch["labelled_label"].tolist())
        ([-1, -1], [0, 0, 1, 1])
    """

    def __init__(self, data: Any, chosen: Tensor, batch_size: int, seed: int = 0) -> None:
        self.data, self.chosen, self.batch_size, self.seed = data, chosen, batch_size, seed

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, indices: list[int]) -> Batch:
        batch = self.data.__getitems__(indices)
        place = hash((self.seed, *indices)) % 2**63  # of integers, so the same in each process
        generator = torch.Generator().manual_seed(place)
        rounds = -(-self.batch_size // len(self.chosen))
        order = torch.cat([torch.randperm(len(self.chosen), generator=generator) for _ in range(rounds)])
        labelled = self.data.__getitems__(self.chosen[order[: self.batch_size]].tolist())
        batch["label"] = torch.full_like(batch["label"], -1)
        return batch | {"labelled_image": labelled["image"], "labelled_label": labelled["label"]}


def choose_labelled(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """Return the sorted positions of ``per_class`` images of each class of ``labels`` (N,), -1 where there is none."""
    classes = labels[labels >= 0].unique().tolist()
    if not classes:
        raise UserError("the images have no labels to choose from: set labels_per_class=null, or use data with classes")
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for number in classes:
        of_class = (labels == number).nonzero()[:, 0]
        if len(of_class) < per_class:
            raise UserError(
                f"labels_per_class must be at most {len(of_class)}, the images of class {number}, got {per_class}"
            )
        chosen.append(of_class[torch.randperm(len(of_class), generator=generator)[:per_class]])
    return torch.cat(chosen).sort().values
