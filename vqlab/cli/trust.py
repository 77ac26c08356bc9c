"""Filter the configuration in a checkpoint, which the user has not passed by ``--config``.

The parser imports and builds every class that a configuration names, so a foreign configuration could run code. It may
therefore name only classes of vqlab, and hold text only where the parser does not accept a class.
"""

import dataclasses
import inspect
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

import lightning

from vqlab.cli.errors import constructor_arguments
from vqlab.errors import UserError
from vqlab.serialization import ConfigMixin, find_class, is_of_vqlab

# Ignored options: they decide where files are written, or how the checkpoint is read.
COMMAND: tuple[str, ...] = ("name", "note", "overwrite", "runs", "codes", "font", "family", "ckpt_path", "weights_only")
COMMAND += ("return_predictions",)
PLACES = ("cache", "default_root_dir", "model_registry")  # arguments that decide where files are written
BASES = (lightning.LightningModule, lightning.LightningDataModule)
NUMBERS = (bool, int, float, NoneType)
WORD = re.compile(r"[a-z0-9_:,-]*")


class Untrusted(Exception):
    """A value that a configuration must not hold; ``place`` is the dotted name of the setting."""

    def __init__(self, value: Any, place: str) -> None:
        name = value.get("class_path", value) if isinstance(value, dict) else value
        super().__init__(f"{str(name)[:80]!a} ({ascii(place[:60])[1:-1]})")


def trusted(config: dict[str, Any], callbacks: Mapping[str, type]) -> dict[str, Any]:
    """Return the settings of a configuration that are safe to use; raises Untrusted for unsafe ones."""
    bases = {"model": lightning.LightningModule, "data": lightning.LightningDataModule, "trainer": lightning.Trainer}
    kinds = {key: {cls} for key, cls in {**bases, **callbacks}.items()}
    kinds |= {"wandb": {str, dict}, "seed_everything": set(), "tensorboard": set()}
    if unknown := next((key for key in config if key not in kinds and key not in COMMAND), None):
        raise Untrusted(config[unknown], str(unknown))
    return {key: _value(value, kinds[key], key) for key, value in config.items() if key in kinds}


def _arguments(values: Any, cls: type, place: str) -> dict[str, Any]:
    """Return the arguments of a constructor."""
    if not isinstance(values, dict):
        raise Untrusted(values, place)
    known = constructor_arguments(cls)
    taken = {}
    for name, value in values.items():
        if name in PLACES and name in known and value not in (None, known[name].default):
            raise Untrusted(value, f"{place}.{name}")
        kinds = _parts(known[name].annotation) if name in known else set()
        taken[name] = _value(value, kinds, f"{place}.{name}")
    return taken


def _value(value: Any, kinds: set[Any], place: str) -> Any:
    """Return the value of an argument whose annotation consists of ``kinds``."""
    if isinstance(value, NUMBERS):
        return value
    if isinstance(value, list):
        return [_value(item, kinds, place) for item in value]
    if isinstance(value, str) and value in kinds:  # a choice of a Literal
        return value
    if isinstance(value, str) and Path in kinds:
        return os.path.join(".", value)  # the parser would read ``best.ckpt`` as a class of a module ``best``
    # The parser reads text as a class if the argument may be an object: only words such as ``ddp`` are safe.
    if isinstance(value, str) and str in kinds and (not any(map(_is_object, kinds)) or WORD.fullmatch(value)):
        return value
    if isinstance(value, dict) and "class_path" in value:
        return _instance(value, kinds & {*BASES} or {ConfigMixin}, place)
    if isinstance(value, dict):
        for kind in filter(_is_object, kinds):
            # The parser takes the arguments of these classes without a class path.
            if dataclasses.is_dataclass(kind) or issubclass(kind, (lightning.Trainer, lightning.Callback)):
                return _arguments(value, kind, place)
        if dict in kinds:
            return {name: _value(item, kinds, f"{place}.{name}") for name, item in value.items()}
    raise Untrusted(value, place)


def _instance(spec: dict[str, Any], bases: set[type], place: str) -> dict[str, Any]:
    """Return the spec of a class of vqlab with its arguments."""
    try:
        cls = find_class(spec["class_path"], *bases)
    except UserError:
        raise Untrusted(spec, place) from None
    if not is_of_vqlab(cls) or spec.keys() - {"class_path", "init_args"}:
        raise Untrusted(spec, place)
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}"} | (
        {"init_args": _arguments(spec["init_args"], cls, place)} if "init_args" in spec else {}
    )


def _parts(annotation: Any) -> set[Any]:
    """Return the types in an annotation, and the choices of each ``Literal``."""
    if get_origin(annotation) in (None, type, Callable):
        return {annotation}
    return {get_origin(annotation)}.union(*map(_parts, get_args(annotation)))


def _is_object(kind: Any) -> bool:
    """Return whether a part of an annotation is a class that the parser would build."""
    return inspect.isclass(kind) and kind.__module__ not in ("builtins", "types", "typing", "collections.abc")
