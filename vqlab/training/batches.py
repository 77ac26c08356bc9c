"""Conversion of the batches of a user's own DataLoader."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.nn import ValueRange

# By modality: names of a tuple's entries, and the shape of the first.
FORMS = {
    "image": (("image", "label", "index"), "(B, C, H, W)"),
    "signal": (("signal", "label", "index"), "(B, C, L)"),
    "text": (("bow", "label", "index"), "(B, V)"),
    "font": (("source", "target", "style"), "(B, 1, S, S)"),
}
PIXELS = ("image", "labelled_image", "strong_image", "source", "target")
TOLERANCE = 0.1  # interpolation and noise may exceed the value range


def as_batch(
    batch: Any, modality: str, value_range: ValueRange | None, dtype: torch.dtype, need_target: bool = True
) -> dict[str, Any]:
    """Convert ``batch``, a dict, a tuple such as (image, label), or a single tensor, to the dict that models take.

    uint8 images are mapped from 0 .. 255 to ``value_range``; other inputs become ``dtype``. Missing labels become -1.

    Raises:
        UserError: If the batch has another form, or its images lie far outside ``value_range``.
    """
    names, shape = FORMS[modality]
    if isinstance(batch, Tensor):
        batch = (batch,)
    if isinstance(batch, (tuple, list)) and 0 < len(batch) <= len(names):
        batch = dict(zip(names, batch, strict=False))
    needed = names[: 2 if modality == "font" and need_target else 1]
    if not isinstance(batch, Mapping) or any(not isinstance(batch.get(name), Tensor) for name in needed):
        got = f"keys {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
        rule = f"a dict with tensors {' and '.join(needed)} {shape}, or a tuple ({', '.join(names[:2])})"
        raise UserError(f"a batch must be {rule}, got {got}: change the Dataset or collate_fn")
    batch = dict(batch)
    count, device = len(batch[needed[0]]), batch[needed[0]].device
    for name in {*names[:1], *PIXELS} & batch.keys():
        if name in PIXELS and value_range is not None:
            batch[name] = _in_range(batch[name], name, value_range)
        batch[name] = batch[name].to(dtype)
    for name, default in (("style", 0), ("density", 0.0)) if modality == "font" else (("label", -1),):
        batch.setdefault(name, torch.full((count,), default, device=device))
    for name in {"label", "style"} & batch.keys():
        numbers = batch[name]
        if not isinstance(numbers, Tensor) or numbers.is_floating_point() or numbers.shape != (count,):
            got = f"{numbers.dtype} {tuple(numbers.shape)}" if isinstance(numbers, Tensor) else type(numbers).__name__
            raise UserError(f"{name} must be integers ({count},), got {got}: leave it out of the batch, or number it")
        batch[name] = numbers.long()
    return batch


def passed_on(batch: Mapping[str, Tensor], *names: str) -> dict[str, Tensor]:
    """Return the entries ``names`` of the batch that exist, for its predictions."""
    return {name: batch[name] for name in names if name in batch}


def predict_codes(model: Any, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
    """Return ``indices`` (B, h, w) or (B, l), ``label`` and ``index`` of a batch, as ``predict_step`` of a model."""
    return {"indices": model.encode(batch[model.modality]), **passed_on(batch, "label", "index")}


def _in_range(x: Tensor, name: str, value_range: ValueRange) -> Tensor:
    """Return images in ``value_range``; uint8 images are converted to it."""
    if x.dtype == torch.uint8:
        return value_range.encode(x.float() / 255)
    low, high = {"unit": (0, 1), "signed": (-1, 1)}.get(value_range.kind, (-float("inf"), float("inf")))
    least, most = x.detach().aminmax()
    if least < low - TOLERANCE or most > high + TOLERANCE:
        rule = f"{name} must lie in [{low}, {high}] with value_range={value_range.kind}"
        got = f"{float(least):.4g} to {float(most):.4g}"
        raise UserError(f"{rule}, got {got}: scale the images, or give uint8 of 0 to 255")
    return x


def check_labels(labels: Tensor, num_classes: int, hint: str) -> None:
    """Raise UserError unless all ``labels`` lie in 0 .. ``num_classes`` - 1."""
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(f"labels must lie in 0 .. {num_classes - 1}, got {labels.min()} to {labels.max()}: {hint}")
