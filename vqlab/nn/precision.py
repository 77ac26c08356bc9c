"""Computation in at least float32, also under autocast and in a model that was cast to half precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


class KeepsFloat32(nn.Module):
    """A module whose state, such as a running mean, stays in float32 when the model is cast to half precision."""

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        def keep_precision(t: Tensor) -> Tensor:
            moved = fn(t)
            return t.to(moved.device) if moved.dtype in (torch.float16, torch.bfloat16) else moved

        return super()._apply(keep_precision, recurse)


def upcast(x: Tensor) -> Tensor:
    """Return half-precision ``x`` as float32; float32 and float64 stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def float_dtype() -> torch.dtype:
    """Return torch's default dtype, or float32 if it is a half precision, as with Lightning's bf16-true."""
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


def like_weights(x: Tensor, module: nn.Module) -> Tensor:
    """Return ``x`` in the dtype and on the device of the weights of ``module``, if it has any."""
    return x.to(next(module.parameters(), x))


def like_input(y: Tensor, x: Tensor) -> Tensor:
    """Return ``y``, computed from ``x`` in full precision, in the dtype of ``x``; unchanged under autocast."""
    return y if x.device.type != "meta" and torch.is_autocast_enabled(x.device.type) else y.to(x.dtype)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context without autocast on ``device``; ``meta`` has no autocast."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
