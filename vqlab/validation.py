"""Checks of constructor arguments: their types, from the annotations, and their values."""

import functools
import math
import types
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vqlab.errors import UserError

NONE = type(None)
NAMES: dict[Any, tuple[str, str]] = {
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    bool: ("True or False", "booleans"),
    str: ("a string", "strings"),
    NONE: ("None", "None"),
}
PLAIN = (str, bytes, Real, list, tuple, type)  # what is no network or quantizer, whatever its class is named


class WrongType(UserError):
    """An argument that cannot be what its annotation says."""


def check_arguments(cls: type, arguments: Mapping[str, Any]) -> None:
    """Raise WrongType if one of the ``arguments`` of ``cls`` cannot be what its annotation says.

    An object of another class passes, for it may stand in; plain data in the place of an object does not.

    Example:
        >>> class Layer:
        ...     def __init__(self, width: int, activation: "Layer | None" = None): ...
        >>> check_arguments(Layer, {"width": "64"})
        Traceback (most recent call last):
        ...
        vqlab.validation.WrongType: Layer: width must be an integer, got '64'
    """
    hints = _hints(cls)
    for name, value in arguments.items():
        hint = hints.get(name, Any)
        members = _members(hint)
        if all(get_origin(member) is Literal or member is NONE for member in members):
            continue  # the constructor has a check of its choices
        if not _matches(value, hint):
            got, advice = " ".join(repr(value).split())[:60], ""
            if isinstance(value, type):
                got, advice = f"the class {value.__name__}", f": pass an object, {name}={value.__name__}(...)"
            elif isinstance(value, str) and all(isinstance(m, type) and (m not in NAMES or m is NONE) for m in members):
                advice = ": pass an object, not its name"
            raise WrongType(f"{cls.__name__}: {name} must be {_describe(hint)}, got {got}{advice}")


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Return the annotations of the constructor and of those that it may hand ``**arguments`` to."""
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if "__init__" in vars(base):
            try:
                hints |= get_type_hints(base.__init__)  # type: ignore[misc]
            except (NameError, TypeError, AttributeError):
                continue  # a user's class whose annotations cannot be read is not checked
    return hints


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _matches(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_matches(value, member) for member in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if hint in (list, tuple):
        return isinstance(value, (list, tuple))  # a checkpoint holds a tuple as a list
    if origin in (list, tuple, Sequence):
        if not isinstance(value, (list, tuple)):
            return False
        if origin is tuple and inner[-1] is not ...:
            return len(value) == len(inner) and all(map(_matches, value, inner))
        return all(_matches(item, inner[0]) for item in value)
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    if hint in NAMES:
        return isinstance(value, hint)
    return not isinstance(hint, type) or isinstance(value, hint) or not isinstance(value, (*PLAIN, NONE))


def _describe(hint: Any) -> str:
    members = _members(hint)
    if len(members) > 1:
        *first, last = dict.fromkeys(part for member in members for part in _describe(member).split(" or "))
        return f"{', '.join(first)} or {last}" if first else last
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin in (list, tuple, Sequence):
        count = f"{len(inner)} " if origin is tuple and inner[-1] is not ... else "a list of "
        return count + NAMES.get(inner[0], ("", "objects"))[1]
    if hint in NAMES:
        return NAMES[hint][0]
    name = getattr(hint, "__name__", str(hint))
    return f"{'an' if name[0] in 'AEIO' else 'a'} {name}"


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
