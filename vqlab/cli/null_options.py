"""Options that are null where null means nothing, which the parser lets pass."""

import dataclasses
import inspect
from collections.abc import Iterable
from typing import Any, get_args

from jsonargparse import Namespace

from vqlab.cli.errors import class_of, constructor_arguments
from vqlab.errors import UserError


def refuse_nulls(value: Any, option: str, cls: type | None = None, linked: Iterable[str] = ()) -> None:
    """Raise UserError if an option that must have a value is null.

    Args:
        value: Part of the configuration: a class with its arguments, or a class's arguments.
        option: Name of that part, for the message.
        cls: The class whose arguments they are, where ``value`` does not name it.
        linked: Names of arguments that get their value later.
    """
    if not isinstance(value, Namespace):
        return
    if isinstance(path := value.get("class_path"), str):
        cls, value = class_of(path), value.get("init_args") or Namespace()
    if not isinstance(cls, type):  # unsaid, or a function
        return
    arguments = constructor_arguments(cls)
    for name, given in vars(value).items():
        if name not in arguments:
            continue
        if given is None and name not in linked and not takes_none(arguments[name]):
            raise UserError(f"{option}.{name} must not be null: leave it out to get its default, or give a value")
        refuse_nulls(given, f"{option}.{name}", plain_class(arguments[name].annotation), linked)


def takes_none(parameter: inspect.Parameter) -> bool:
    """Whether null is a value of the parameter, or its type is not said.

    Example:
        >>> def function(a: int | None, b: int, c=None): ...
        >>> [takes_none(parameter) for parameter in inspect.signature(function).parameters.values()]
        [True, False, True]
    """
    kind = parameter.annotation
    unsaid = kind in (inspect.Parameter.empty, Any) or isinstance(kind, str)
    return unsaid or parameter.default is None or type(None) in get_args(kind)


def plain_class(annotation: Any) -> type | None:
    """Return the dataclass that an option's fields are of, if its type is one, or one or null."""
    kinds = get_args(annotation) or (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None)
