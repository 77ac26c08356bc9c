"""What a configuration may say that a checkpoint brings along, and that the user has not passed by ``--config``.

The parser imports and instantiates whatever class a configuration names, so one from somewhere else would run code.
What comes with a checkpoint is therefore copied value by value: vqlab's own classes, and plain values where no class
can be meant.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import lightning

from vqlab.cli.errors import constructor_arguments
from vqlab.errors import UserError
from vqlab.serialization import ConfigMixin, find_class, is_of_vqlab

# Options of the command, not of the run: they decide where files are written, or how the checkpoint is read.
COMMAND = ("name", "runs", "codes", "font", "family", "ckpt_path", "weights_only")
SCALARS = (bool, int, float, NoneType)
PLAIN = (*SCALARS, str, list, tuple, dict, ...)  # types of arguments of which no text is a class
OBJECTS = ("callbacks", "logger", "plugins", "profiler")  # options of the Trainer that a text turns into an object


class Untrusted(Exception):
    """What a configuration names and may not.

    Args:
        name: The value.
        place: Dotted name of the setting.
    """

    def __init__(self, name: Any, place: str) -> None:
        super().__init__(f"{str(name)[:80]!a} ({ascii(place[:60])[1:-1]})")


def trusted(config: dict[str, Any], callbacks: Mapping[str, type]) -> dict[str, Any]:
    """Return of a configuration what a run may take without being told to.

    Args:
        config: The configuration.
        callbacks: The class of each group of options that belongs to one of vqlab's callbacks.

    Raises:
        Untrusted: If it names anything else.

    Example:
        >>> trusted({"trainer": {"max_steps": 3}, "runs": "elsewhere"}, {})
        {'trainer': {'max_steps': 3}}
        >>> trusted({"trainer": {"callbacks": "os.system"}}, {})
        Traceback (most recent call last):
        vqlab.cli.trust.Untrusted: 'os.system' (trainer.callbacks)
    """
    taken: dict[str, Any] = {}
    for key, value in config.items():
        if key in ("model", "data"):
            base = lightning.LightningModule if key == "model" else lightning.LightningDataModule
            taken[key] = class_spec(value, base, key)
        elif key == "trainer":
            taken[key] = trainer_options(value)
        elif key in callbacks:
            taken[key] = arguments(value, callbacks[key], key)
        elif key == "wandb":
            taken[key] = plain(value, key)
        elif key in ("seed_everything", "tensorboard"):
            taken[key] = scalar(value, key)
        elif key not in COMMAND:  # an option without text, that this list does not know, is of no run either
            scalar(value, str(key))
    return taken


def class_spec(value: Any, base: type, place: str) -> dict[str, Any]:
    """Return a class of vqlab's with its arguments."""
    if not isinstance(value, dict) or "class_path" not in value:
        raise Untrusted(first_name(value), place)
    if unknown := next((key for key in value if key not in ("class_path", "init_args")), None):
        raise Untrusted(unknown, place)
    path = value["class_path"]
    try:
        cls = find_class(path, base)
    except UserError:
        raise Untrusted(path, place) from None
    if not is_of_vqlab(cls):
        raise Untrusted(path, place)
    spec: dict[str, Any] = {"class_path": f"{cls.__module__}.{cls.__qualname__}"}
    return spec | ({"init_args": arguments(value["init_args"], cls, place)} if "init_args" in value else {})


def arguments(value: Any, cls: type, place: str) -> dict[str, Any]:
    """Return the arguments of a constructor; a class is taken, and a text, where the parameter's type has them."""
    if not isinstance(value, dict):
        raise Untrusted(value, place)
    known = constructor_arguments(cls)
    taken = {}
    for name, given in value.items():
        option = f"{place}.{name}"
        kinds = leaves(known[name].annotation) if name in known else {}
        if name == "cache" and isinstance(given, str) and given != known[name].default:
            raise Untrusted(given, option)  # a folder that is written into, and from which copies are removed
        taken[name] = argument(given, kinds, option)
    return taken


def argument(value: Any, kinds: dict[Any, None], place: str) -> Any:
    """Return the value of an argument whose type is made of ``kinds``."""
    if isinstance(value, SCALARS):
        return value
    if isinstance(value, list):
        return [argument(item, kinds, place) for item in value]
    if isinstance(value, str):
        if any(value in get_args(kind) for kind in kinds if get_origin(kind) is Literal):
            return value
        if Path in kinds:
            return os.path.join(".", value)  # so that ``best.ckpt`` is no class of a module ``best``
        if str not in kinds or not all(kind in PLAIN or get_origin(kind) is Literal for kind in kinds):
            raise Untrusted(value, place)
        return value
    if not isinstance(value, dict):
        raise Untrusted(value, place)
    if "class_path" in value:
        return class_spec(value, ConfigMixin, place)
    if settings := next((k for k in kinds if isinstance(k, type) and dataclasses.is_dataclass(k)), None):
        return arguments(value, settings, place)
    if dict not in kinds:
        raise Untrusted(first_name(value), place)
    return {name: argument(item, kinds, f"{place}.{name}") for name, item in value.items()}


def leaves(annotation: Any) -> dict[Any, None]:
    """Return the types that an annotation is made of, in their order.

    Example:
        >>> [*leaves(list[int | str] | Literal["a"] | None)]
        [<class 'list'>, <class 'int'>, <class 'str'>, typing.Literal['a'], <class 'NoneType'>]
    """
    origin = get_origin(annotation)
    if origin in (Literal, type, Callable):
        return {annotation: None}
    found: dict[Any, None] = {origin: None} if isinstance(origin, type) and origin.__module__ == "builtins" else {}
    for part in get_args(annotation):
        found |= leaves(part)
    return found or {annotation: None}


def trainer_options(value: Any) -> dict[str, Any]:
    """Return the Trainer's options that are plain, and no text of which could be a class or a place."""
    options = plain(value, "trainer")
    for name, given in options.items():
        place = f"trainer.{name}"
        if isinstance(given, (list, dict)):
            for item in given if isinstance(given, list) else given.values():
                scalar(item, place)
        elif isinstance(given, str) and (
            name in (*OBJECTS, "default_root_dir", "model_registry") or not re.fullmatch(r"[a-z0-9_:,-]*", given)
        ):
            raise Untrusted(given, place)
    return options


def plain(value: Any, place: str) -> dict[str, Any]:
    """Return a mapping of names to plain values, lists and mappings of these."""
    if not isinstance(value, dict):
        raise Untrusted(value, place)
    for name, given in value.items():
        if not isinstance(name, str) or not isinstance(given, (*SCALARS, str)):
            items = list(given.values()) if isinstance(given, dict) else given
            if not isinstance(items, list) or not all(isinstance(item, (*SCALARS, str)) for item in items):
                raise Untrusted(first_name(given), f"{place}.{name}")
            if isinstance(given, dict) and "class_path" in given:
                raise Untrusted(given["class_path"], f"{place}.{name}")
    return dict(value)


def scalar(value: Any, place: str) -> Any:
    """Return a number, a boolean or null."""
    if not isinstance(value, SCALARS):
        raise Untrusted(first_name(value), place)
    return value


def first_name(value: Any) -> Any:
    """Return the first class path in a value, or the first text, to name it by."""
    places = [value]
    while places:
        place = places.pop(0)
        if isinstance(place, dict) and "class_path" in place:
            return place["class_path"]
        if isinstance(place, (dict, list)):
            places += place.values() if isinstance(place, dict) else place
        elif isinstance(place, str):
            return place
    return value
