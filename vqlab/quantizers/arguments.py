"""Checks of constructor arguments, each with one line that names the setting and the mend."""

import math
from typing import Any

from vqlab.errors import UserError

USUAL = {
    "num_embeddings": 512,
    "embedding_dim": 32,
    "group_size": 8,
    "num_quantizers": 4,
    "num_groups": 2,
    "num_phi": 4,
}


def check_sizes(**sizes: int) -> None:
    """Raise UserError if a size is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"{name} must be at least 1, got {size}: set --model.quantizer.{name}={USUAL[name]}")


def check_counts(**counts: int) -> None:
    """Raise UserError if a count of a model is below 1."""
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"{name} must be at least 1, got {count}: set --model.{name}=1 or more")


def check_weight(name: str, weight: float, mend: str) -> None:
    """Raise UserError if a loss weight is negative, infinite or NaN; ``mend`` says what is usual."""
    if not 0 <= weight < math.inf:
        raise UserError(f"{name} must be finite and not negative, got {weight}: {mend}")


def check_positive(name: str, value: float, mend: str) -> None:
    """Raise UserError if ``value`` is not above 0 or not finite; ``mend`` says what is usual."""
    if not 0 < value < math.inf:
        raise UserError(f"{name} must be finite and above 0, got {value}: {mend}")


def check_clips(**norms: float | None) -> None:
    """Raise UserError if a largest gradient norm of a model is not above 0 or not finite; None clips nothing."""
    for name, norm in norms.items():
        if norm is not None:
            check_positive(name, norm, f"set --model.{name}=1, or null not to clip")


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise UserError if ``value`` is not among ``choices``."""
    if value not in choices:
        raise UserError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")
