"""Checks of constructor arguments against their annotations: types, choices and ranges.

The signature of a class derived from :class:`Checked` states the rules:

    def __init__(self, num_embeddings: Count = 512, decay: Fraction = 0.99, distance: Literal["l2", "cosine"] = "l2")
"""

import dataclasses
import functools
import inspect
import math
import types
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from vqlab.errors import UserError


@dataclasses.dataclass(frozen=True)
class Range:
    """The finite numbers from ``low`` to ``high``, without the bounds that are ``open``."""

    low: float = -math.inf
    high: float = math.inf
    open: Literal["", "low", "high", "both"] = ""

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open in ("low", "both") else value >= self.low
        below = value < self.high if self.open in ("high", "both") else value <= self.high
        return above and below and math.isfinite(value)

    def __repr__(self) -> str:
        if self.high == math.inf:
            return f"{'above' if self.open else 'at least'} {self.low}"
        left, right = "(" if self.open in ("low", "both") else "[", ")" if self.open in ("high", "both") else "]"
        return f"in {left}{self.low}, {self.high}{right}"


Count = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, open="low")]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
Probability = Annotated[float, Range(0, 1, open="high")]

NONE = type(None)
NAMES: dict[Any, tuple[str, str]] = {
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    bool: ("True or False", "booleans"),
    str: ("a string", "strings"),
    NONE: ("None", "None"),
}
PLAIN = (str, bytes, Real, list, tuple, type)  # never accepted in place of a network or quantizer


class InvalidArgument(UserError):
    """Raised if an argument of the class ``owner`` does not match its annotation."""

    def __init__(self, owner: type, argument: str, rule: str) -> None:
        super().__init__(f"{owner.__name__}: {argument} {rule}")
        self.owner = owner


class Checked:
    """Mixin that checks the constructor's arguments against their annotations.

    Example:
        >>> class Layer(Checked):
        ...     def __init__(self, width: Count = 8): ...
        >>> Layer(width=0)
        Traceback (most recent call last):
        vqlab.validation.InvalidArgument: Layer: width must be at least 1, got 0
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Check the arguments; ``copy`` and ``pickle`` call this without arguments."""
        check_arguments(cls, given_arguments(cls, *args, **kwargs))
        return super().__new__(cls)


def given_arguments(cls: type, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return the arguments by name, or none if the constructor will raise TypeError."""
    try:
        bound = inspect.signature(cls.__init__).bind_partial(None, *args, **kwargs)  # type: ignore[misc]
    except TypeError:
        return {}
    given = dict(list(bound.arguments.items())[1:])  # without self
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            given |= given.pop(name, {})
    return given


def check_fields(settings: Any) -> None:
    """Check the fields of a dataclass, from its ``__post_init__``."""
    check_arguments(type(settings), {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)})


def check_arguments(cls: type, arguments: Mapping[str, Any]) -> None:
    """Raise InvalidArgument for an argument of ``cls`` that does not match its annotation; networks are duck-typed."""
    hints = _hints(cls)
    for name, value in arguments.items():
        hint = hints.get(name, Any)
        if _matches(value, hint):
            continue
        got = " ".join(repr(value).split())[:60]
        objects = all(isinstance(member, type) and member not in (int, float, bool) for member in _members(hint))
        if isinstance(value, type):
            got = f"the class {value.__name__}: pass an object, {name}={value.__name__}(...)"
        elif isinstance(value, str) and objects:
            got += ": pass an object, not its name"
        raise InvalidArgument(cls, name, f"must be {_describe(hint, value)}, got {got}")


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Return the annotations of the constructor and of its bases' constructors, which may get ``**arguments``."""
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if "__init__" in vars(base):
            try:
                hints |= get_type_hints(base.__init__, include_extras=True)  # type: ignore[misc]
            except (NameError, TypeError, AttributeError):
                continue  # a user's class whose annotations cannot be read is not checked
    return hints


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _matches(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Annotated:
        kind, *ranges = inner
        numbers = value if isinstance(value, (list, tuple)) else [value]
        return _matches(value, kind) and all(n in r for r in ranges if isinstance(r, Range) for n in numbers)
    if origin in (Union, types.UnionType):
        return any(_matches(value, member) for member in inner)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in inner)
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


def _describe(hint: Any, value: Any = None) -> str:
    """Return in words what ``hint`` allows; only the range if ``value`` is a number out of range."""
    members = _members(hint)
    if len(members) > 1:
        parts = dict.fromkeys(part for member in members for part in _describe(member, value).split(" or "))
        *first, last = parts
        return f"{', '.join(first)} or {last}" if first else last
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        kind, *ranges = inner
        allowed = " and ".join(repr(r) for r in ranges if isinstance(r, Range))
        return allowed if _matches(value, kind) else f"{_describe(kind)} {allowed}".replace(" at least", " of at least")
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}" if len(inner) > 1 else repr(inner[0])
    if origin in (list, tuple, Sequence):
        count = f"{len(inner)} " if origin is tuple and inner[-1] is not ... else "a list of "
        item, *ranges = get_args(inner[0]) if get_origin(inner[0]) is Annotated else inner[:1]
        return " ".join([count + NAMES.get(item, ("", "objects"))[1], *map(repr, ranges)])
    if hint in NAMES:
        return NAMES[hint][0]
    name = getattr(hint, "__name__", str(hint))
    return f"{'an' if name[0] in 'AEIO' else 'a'} {name}"
