"""Data with a few labels, whose other labels are poisoned."""

from typing import Any

import torch


def poison(data: Any) -> Any:
    """Set the labels of the unlabelled training images of ``data`` to 10^6, and return ``data``."""
    data.setup("fit")
    part = data._train_val[0]
    chosen = part.data.labels[part.chosen]
    part.data.labels = torch.full_like(part.data.labels, 10**6)
    part.data.labels[part.chosen] = chosen
    return data
