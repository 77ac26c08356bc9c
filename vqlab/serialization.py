"""Objects that remember how they were made, so that a checkpoint can make them again.

A checkpoint holds plain data only (it is read with ``weights_only=True``), so a model that was given a quantizer or a
network stores that part's class path and arguments, in the ``class_path``/``init_args`` form of the YAML configs.
"""

import dataclasses
import importlib
import inspect
import sys
from typing import Any

from torch import nn

import vqlab
from vqlab.errors import UserError
from vqlab.validation import Checked, given_arguments


class ConfigMixin(Checked):
    """Mixin that records the constructor's arguments as ``init_args``, and checks them against their annotations.

    Example:
        >>> class Scale(ConfigMixin, nn.Module):
        ...     def __init__(self, factor: float = 2.0):
        ...         super().__init__()
        >>> Scale(3.0).init_args
        {'factor': 3.0}
    """

    init_args: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Record the arguments; ``copy`` and ``pickle`` call this with none and restore the record afterwards."""
        self = super().__new__(cls, *args, **kwargs)
        parameters = inspect.signature(cls.__init__).parameters.values()
        if args and (star := next((p.name for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL), None)):
            raise TypeError(f"{cls.__name__}: *{star} has no names to record: take a list instead")
        defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
        object.__setattr__(self, "init_args", defaults | given_arguments(cls, *args, **kwargs))
        return self


def to_config(value: Any) -> Any:
    """Turn a constructor argument into plain data that :func:`from_config` turns back.

    Args:
        value: Plain data, a dataclass, a :class:`ConfigMixin`, or lists, tuples and dicts of these. Any other module
            becomes a spec without ``init_args``, which loads only if the caller passes the module again.
    """
    if isinstance(value, ConfigMixin):
        return {"class_path": _class_path(value), "init_args": {k: to_config(v) for k, v in value.init_args.items()}}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_config(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class_path": _class_path(value), "init_args": fields}
    if isinstance(value, nn.Module):
        return {"class_path": _class_path(value)}
    if isinstance(value, (list, tuple)):
        return [to_config(v) for v in value]
    if isinstance(value, dict):
        return {k: to_config(v) for k, v in value.items()}
    return value


def from_config(spec: Any) -> Any:
    """Build what :func:`to_config` described; anything that is no spec comes back as it is.

    Raises:
        UserError: If :func:`find_class` refuses the class, or its arguments were not recorded.

    Example:
        >>> from vqlab.quantizers.fsq import FSQ
        >>> from_config(to_config(FSQ([8, 5, 5, 5]))).num_embeddings
        1000
    """
    if isinstance(spec, list):
        return [from_config(v) for v in spec]
    if not isinstance(spec, dict):
        return spec
    if "class_path" not in spec:
        return {k: from_config(v) for k, v in spec.items()}
    if "init_args" not in spec:
        raise UserError(
            f"the checkpoint names {spec['class_path']!s:.80}, an object whose arguments are not recorded: "
            f"derive the class from vqlab.serialization.ConfigMixin, or pass it again: vqlab.load(path, encoder=...)"
        )
    return find_class(spec["class_path"])(**{k: from_config(v) for k, v in spec["init_args"].items()})


def find_class(class_path: str, base: type = ConfigMixin) -> type:
    """Return the class named by ``class_path``: one that is derived from ``base``, or a dataclass of vqlab's.

    Only vqlab itself is imported because a checkpoint names it. A class of the user's must be imported already and be
    derived from ``base``; other libraries' modules are refused, since to construct one may download files.

    Raises:
        UserError: If there is no such class, or it is another.
    """
    try:
        module_name, _, name = public_path(class_path).rpartition(".")
        module = importlib.import_module(module_name) if module_name.startswith("vqlab.") else sys.modules[module_name]
        cls = getattr(module, name)
    except (KeyError, ImportError, AttributeError):
        shown = f"{class_path!s:.80}"
        raise UserError(f"the checkpoint names the class {shown}: import its module before loading") from None
    if not isinstance(cls, type) or not (issubclass(cls, base) or (is_of_vqlab(cls) and dataclasses.is_dataclass(cls))):
        raise UserError(
            f"the checkpoint names {class_path:.80}, no class of vqlab's models, networks and settings, nor one that "
            "is derived from vqlab.serialization.ConfigMixin: refused"
        )
    return cls


def public_path(class_path: str) -> str:
    """Return ``vqlab.Name`` for each public class of vqlab, wherever its module lies or lay in earlier versions.

    Example:
        >>> public_path("vqlab.nn.glyph_judge.GlyphJudge"), public_path("mine.VQVAE")
        ('vqlab.GlyphDiscriminator', 'mine.VQVAE')
    """
    package, _, name = class_path.rpartition(".")
    name = vqlab.RENAMED.get(name, name)
    return f"vqlab.{name}" if package.startswith("vqlab.") and name in vqlab.__all__ else class_path


def with_public_paths(spec: Any) -> Any:
    """Return what :func:`to_config` returned in an earlier version with the class paths of this one."""
    if isinstance(spec, list):
        return [with_public_paths(item) for item in spec]
    if not isinstance(spec, dict):
        return spec
    return {
        key: public_path(value) if key == "class_path" and isinstance(value, str) else with_public_paths(value)
        for key, value in spec.items()
    }


def is_of_vqlab(cls: type) -> bool:
    """Whether a class is defined in vqlab, wherever else it is imported."""
    return cls.__module__.partition(".")[0] == "vqlab"


def _class_path(value: Any) -> str:
    return public_path(f"{type(value).__module__}.{type(value).__qualname__}")
