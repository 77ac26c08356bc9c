"""Checks of codes before they are decoded."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqlab.errors import UserError


def as_codes(codes: Any, device: torch.device | None = None) -> Tensor:
    """Return a tensor, array or list of integers as int64 on ``device``, or raise UserError."""
    try:
        found = torch.as_tensor(codes if isinstance(codes, Tensor) else np.array(codes), device=device)
    except (TypeError, ValueError):
        raise UserError(f"codes must be a tensor or an array of integers, got {type(codes).__name__}") from None
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise UserError(f"codes must be integers, got {found.dtype}: pass the output of encode")
    return found.long()


def check_code_shape(codes: Tensor, shape: tuple[int, ...]) -> None:
    """Raise UserError if the number of axes of ``codes`` is not that of (B, *shape), as for a flat sequence."""
    if codes.ndim != 1 + len(shape):
        expected = ", ".join(map(str, shape))
        hint = f": use codes.reshape(-1, {expected})" if codes.numel() % math.prod(shape) == 0 else ""
        raise UserError(f"codes must be (B, {expected}), got {tuple(codes.shape)}{hint}")


def check_code_range(codes: Tensor, num_embeddings: int) -> None:
    """Raise UserError if one of ``codes`` lies outside [0, num_embeddings); not while a graph is recorded."""
    if codes.numel() == 0 or codes.is_meta or in_graph():
        return
    low, high = torch.stack(codes.aminmax()).tolist()
    if low < 0 or high >= num_embeddings:
        rule = f"outside 0 .. {num_embeddings - 1}, because num_embeddings is {num_embeddings}"
        raise UserError(f"code {low if low < 0 else high} lies {rule}: remove padding and mask tokens")


def in_graph() -> bool:
    """Whether ``torch.compile``, ``torch.export`` or ``torch.jit.trace`` records a graph."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()
