"""Computation in at least float32, under autocast and in a model that was cast to half precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


class KeepsFloat32(nn.Module):
    """A module whose state stays in float32 when the model around it is cast to half precision.

    For running means and the like, which need more than the 8 bits of bfloat16. Its outputs may have any type.
    """

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        def keep_precision(t: Tensor) -> Tensor:
            moved = fn(t)
            return t.to(moved.device) if moved.dtype in (torch.float16, torch.bfloat16) else moved

        return super()._apply(keep_precision, recurse)


def upcast(x: Tensor) -> Tensor:
    """Return half-precision ``x`` as float32, and float32 or float64 as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def float_dtype() -> torch.dtype:
    """Return torch's default dtype, but float32 where Lightning's bf16-true has set it to a half precision."""
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


def like_weights(x: Tensor, module: nn.Module) -> Tensor:
    """Return ``x`` in the dtype and on the device of the weights of ``module``, as it is if there are none."""
    return x.to(next(module.parameters(), x))


def like_input(y: Tensor, x: Tensor) -> Tensor:
    """Return ``y``, computed from ``x`` in full precision, in the dtype of ``x``; under autocast in its own."""
    return y if x.device.type != "meta" and torch.is_autocast_enabled(x.device.type) else y.to(x.dtype)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context without autocast on ``device``; ``meta`` has none to switch off."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
