"""Conversion of models and their parts to plain data and back, for checkpoints and configs.

A checkpoint contains plain data only (it is read with ``weights_only=True``): a quantizer or network is stored as its
class path and arguments, in the ``class_path``/``init_args`` form of the YAML configs.
"""

import dataclasses
import importlib
import inspect
import sys
import warnings
from typing import Any

from torch import nn

import vqlab
from vqlab.errors import UserError
from vqlab.validation import check_arguments, given_arguments


def _in(group: str, *names: str, **renamed: str) -> dict[str, str]:
    return {name: f"{group}.{name}" for name in names} | {old: f"{group}.{new}" for old, new in renamed.items()}


_IMAGES = _in("images", "channels", "value_range", "num_classes", image_size="size")
_ADAM = _in("optimization", "betas", "weight_decay", "schedule")
_GAN = _ADAM | _in("optimization", "disc_lr", clip_g="clip", clip_d="disc_clip")
_DISCRIMINATOR = _in("adversarial", "discriminator", "disc_weight", "disc_start", "disc_lr")
_CATEGORICAL = _IMAGES | _ADAM | _DISCRIMINATOR | _in("evaluation", "nll_samples", "test_nll_samples", "frechet")
_CATEGORICAL |= _in("optimization", "clip", "proposal_lr", "proposal_base_lr")
_VQGAN = _IMAGES | _ADAM | _DISCRIMINATOR | _in("optimization", clip_g="clip")
_VQGAN |= _in("adversarial", "adaptive", "disc_warmup", "lecam_weight", "r1_weight", "alternate")
_VQGAN |= _in("adversarial", adversarial="loss", clip_d="disc_clip")
# By model: flat arguments until 0.1 -> their places now.
MOVED = {
    "VQVAE": _IMAGES | _ADAM,
    "VQGAN": _VQGAN,
    "CodePrior": _in("images", "channels", "value_range", image_size="size") | _ADAM,
    "JSA": _CATEGORICAL | _in("sampler", "num_mis_steps", "kernel", "cache", "cache_start_epoch", "train_size"),
    "DiscreteVAE": _CATEGORICAL,
    "S4DVQ": _ADAM,
    "SGAN": _IMAGES | _GAN,
    "FontGAN": _GAN | _in("optimization", optimizer="kind"),
    "GANTopicModel": _GAN,
}
# Group of arguments -> its dataclass.
SETTINGS = {
    "images": "ImageFormat",
    "adversarial": "AdversarialSettings",
    "sampler": "PosteriorSampler",
    "evaluation": "EvaluationSettings",
}
OPTIMIZATIONS = {
    **dict.fromkeys(("JSA", "DiscreteVAE"), "ProposalOptimization"),
    **dict.fromkeys(("SGAN", "FontGAN", "GANTopicModel"), "GANOptimization"),
}

# Removed arguments of version 0.1, with their defaults.
_BLOCKS = {"blocks": None, "block_size": 2}
REMOVED: dict[str, dict[str, Any]] = {
    "JSA": _BLOCKS,
    "PosteriorSampler": {"blocks": None},
    "FontGAN": {"tv_weight": 0.0, "edge_weight": 0.0, "perceptual": None, "perceptual_weight": 0.0},
}


class ConfigMixin:
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
        """Record the arguments; ``copy`` and ``pickle`` call this without arguments and restore the record later."""
        parameters = inspect.signature(cls.__init__).parameters
        for name in kwargs.keys() - parameters.keys():
            if (new := moved_argument(cls.__name__, name)) != name:
                raise UserError(f"{cls.__name__}: {name} is now {new}")
        arguments = given_arguments(cls, *args, **kwargs)
        check_arguments(cls, arguments)
        self = super().__new__(cls)
        defaults = {p.name: p.default for p in parameters.values() if p.default is not inspect.Parameter.empty}
        object.__setattr__(self, "init_args", defaults | arguments)
        return self


def to_config(value: Any) -> Any:
    """Convert a constructor argument to plain data for :func:`from_config`; of other modules only the class path."""
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
    """Build the object that :func:`to_config` described; return other data unchanged."""
    if isinstance(spec, list):
        return [from_config(v) for v in spec]
    if not isinstance(spec, dict):
        return spec
    if "class_path" not in spec:
        return {k: from_config(v) for k, v in spec.items()}
    if "init_args" not in spec:
        raise UserError(
            f"the checkpoint names {spec['class_path']!s:.80}, whose arguments are not recorded: derive the class from "
            "vqlab.serialization.ConfigMixin, or pass the object again: vqlab.load(path, encoder=...)"
        )
    return find_class(spec["class_path"])(**{k: from_config(v) for k, v in spec["init_args"].items()})


def find_class(class_path: str, base: type = ConfigMixin) -> type:
    """Return the class named by ``class_path``: a subclass of ``base``, or a dataclass of vqlab.

    Only modules of vqlab are imported. A user's class must be imported before; classes of other libraries are refused,
    because constructing them may run code or download files.
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
            f"the checkpoint names {class_path:.80}, which is neither a class of vqlab's models, networks and settings "
            "nor derived from vqlab.serialization.ConfigMixin: refused"
        )
    return cls


def public_path(class_path: str) -> str:
    """Return ``vqlab.Name`` for a public class of vqlab, whose module or name may have changed since version 0.1."""
    package, _, name = class_path.rpartition(".")
    name = vqlab.RENAMED.get(name, name)
    return f"vqlab.{name}" if package.startswith("vqlab.") and name in vqlab.__all__ else class_path


def current_config(config: Any, stored: bool = False) -> Any:
    """Translate a configuration of version 0.1; with ``stored``, as in a checkpoint, groups get a class path."""
    if isinstance(config, list):
        return [current_config(item, stored) for item in config]
    if not isinstance(config, dict):
        return config
    config = {key: current_config(value, stored) for key, value in config.items()}
    if isinstance(path := config.pop("_class_path", None), str):  # hyperparameters of a checkpoint
        return {"_class_path": public_path(path), **_grouped(path, config, stored)}
    if isinstance(path := config.get("class_path"), str):
        config["class_path"] = public_path(path)
        if isinstance(config.get("init_args"), dict):
            config["init_args"] = _grouped(path, config["init_args"], stored)
    return config


def moved_argument(class_name: str, name: str) -> str:
    """Return the current dotted name of a model's argument: of VQGAN's ``clip_d``, ``adversarial.disc_clip``."""
    return MOVED.get(class_name, {}).get(name, name)


def _grouped(class_path: str, arguments: dict[str, Any], stored: bool) -> dict[str, Any]:
    """Return a model's ``arguments`` with moved ones in their groups and without removed ones."""
    class_name = class_path.rpartition(".")[2]
    removed = REMOVED.get(class_name, {})
    found: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for name, value in arguments.items():
        group, _, inner = moved_argument(class_name, name).partition(".")
        if name in removed:
            if value and value != removed[name]:
                shown = f"{class_name}.{name}={value!s:.60}"
                warnings.warn(f"{shown} of version 0.1 has no effect any more", stacklevel=2)
        elif not inner or (name == group and isinstance(value, dict)):
            found[name] = value
        elif name != "train_size":  # now taken from the data
            groups.setdefault(group, {})[inner] = value
    for group, inner_arguments in groups.items():
        settings = OPTIMIZATIONS.get(class_name, "Optimization") if group == "optimization" else SETTINGS[group]
        spec = {"class_path": f"vqlab.{settings}", "init_args": inner_arguments}
        found[group] = spec if stored else {**found.get(group, {}), **inner_arguments}
    return found


def is_of_vqlab(cls: type) -> bool:
    """Whether a class is defined in vqlab."""
    return cls.__module__.partition(".")[0] == "vqlab"


def _class_path(value: Any) -> str:
    return public_path(f"{type(value).__module__}.{type(value).__qualname__}")
