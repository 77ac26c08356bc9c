"""Checks of constructor arguments, each with one line that names the setting and the mend."""

from typing import Any

from vqlab.errors import UserError


def check_sizes(**sizes: int) -> None:
    """Raise UserError if a size is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"{name} must be at least 1, got {size}: set --model.quantizer.{name}=512")


def check_weight(name: str, weight: float, mend: str) -> None:
    """Raise UserError if a loss weight is negative or NaN; ``mend`` says what is usual."""
    if not weight >= 0:
        raise UserError(f"{name} must not be negative, got {weight}: {mend}")


def check_positive(name: str, value: float, mend: str) -> None:
    """Raise UserError if ``value`` is not above 0; ``mend`` says what is usual."""
    if not value > 0:
        raise UserError(f"{name} must be above 0, got {value}: {mend}")


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise UserError if ``value`` is not among ``choices``."""
    if value not in choices:
        raise UserError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")
