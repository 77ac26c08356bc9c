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
from vqlab.validation import check_arguments, given_arguments


def _in(group: str, *names: str, **renamed: str) -> dict[str, str]:
    return {name: f"{group}.{name}" for name in names} | {old: f"{group}.{new}" for old, new in renamed.items()}


_IMAGES = _in("images", "channels", "value_range", "num_classes", image_size="size")
_ADAM = _in("optimization", "betas", "weight_decay", "schedule")
_GAN = _ADAM | _in("optimization", "disc_lr", clip_g="clip", clip_d="disc_clip")
_DISCRIMINATOR = _in("adversarial", "discriminator", "disc_weight", "disc_start", "disc_lr")
_CODES = {
    **_IMAGES,
    **_ADAM,
    **_in("optimization", "clip", "proposal_lr", "proposal_base_lr"),
    **_DISCRIMINATOR,
    **_in("evaluation", "nll_samples", "test_nll_samples", "frechet"),
}
# Arguments that models had until 0.1, and where they are since then.
MOVED = {
    "VQVAE": _IMAGES | _ADAM,
    "VQGAN": {
        **_IMAGES,
        **_ADAM,
        **_in("optimization", clip_g="clip"),
        **_DISCRIMINATOR,
        **_in("adversarial", "adaptive", "disc_warmup", "lecam_weight", "r1_weight", "alternate"),
        **_in("adversarial", adversarial="loss", clip_d="disc_clip"),
    },
    "CodePrior": _in("images", "channels", "value_range", image_size="size") | _ADAM,
    "JSA": _CODES | _in("sampler", "num_mis_steps", "kernel", "cache", "cache_start_epoch", "train_size"),
    "DiscreteVAE": _CODES,
    "S4DVQ": _ADAM,
    "SGAN": _IMAGES | _GAN,
    "FontGAN": _GAN | _in("optimization", optimizer="kind"),
    "GANTopicModel": _GAN,
}
# Dataclass of each group.
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

# Arguments of earlier checkpoints that no class takes any more.
REMOVED = {
    "JSA": {"blocks", "block_size"},
    "PosteriorSampler": {"blocks", "block_size"},
    "FontGAN": {"tv_weight", "edge_weight", "perceptual", "perceptual_weight"},
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
        """Record the arguments; ``copy`` and ``pickle`` call this with none and restore the record afterwards."""
        parameters = inspect.signature(cls.__init__).parameters
        for name in kwargs.keys() - parameters.keys():
            if (new := moved_argument(cls.__name__, name)) != name:
                raise UserError(f"{cls.__name__}: {name} is now {new}")
        if args and (star := [p.name for p in parameters.values() if p.kind is inspect.Parameter.VAR_POSITIONAL]):
            raise TypeError(f"{cls.__name__}: *{star[0]} has no names to record: take a list instead")
        arguments = given_arguments(cls, *args, **kwargs)
        check_arguments(cls, arguments)
        self = super().__new__(cls)
        defaults = {p.name: p.default for p in parameters.values() if p.default is not inspect.Parameter.empty}
        object.__setattr__(self, "init_args", defaults | arguments)
        return self


def to_config(value: Any) -> Any:
    """Turn a constructor argument into plain data that :func:`from_config` turns back.

    A module that is no :class:`ConfigMixin` becomes a spec without ``init_args``, which the caller must pass again.
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


def current_config(config: Any, stored: bool = False) -> Any:
    """Return a configuration of an earlier version with the names of this one.

    In the hyperparameters of a checkpoint (``stored``), settings name their class.

    Example:
        >>> current_config({"class_path": "vqlab.VQVAE", "init_args": {"lr": 0.1, "betas": [0.5, 0.9]}})["init_args"]
        {'lr': 0.1, 'optimization': {'betas': [0.5, 0.9]}}
    """
    if isinstance(config, list):
        return [current_config(item, stored) for item in config]
    if not isinstance(config, dict):
        return config
    config = {key: current_config(value, stored) for key, value in config.items()}
    if isinstance(path := config.get("_class_path"), str):  # beside it are the constructor's arguments
        del config["_class_path"]
        return {"_class_path": public_path(path), **_grouped(path, config, stored)}
    if isinstance(path := config.get("class_path"), str):
        config["class_path"] = public_path(path)
        if isinstance(config.get("init_args"), dict):
            config["init_args"] = _grouped(path, config["init_args"], stored)
    return config


def moved_argument(class_name: str, name: str) -> str:
    """Return the dotted name that an argument of a model has now.

    Example:
        >>> moved_argument("VQGAN", "clip_d"), moved_argument("SGAN", "clip_d"), moved_argument("SGAN", "lr")
        ('adversarial.disc_clip', 'optimization.disc_clip', 'lr')
    """
    return MOVED.get(class_name, {}).get(name, name)


def _grouped(class_path: str, arguments: dict[str, Any], stored: bool) -> dict[str, Any]:
    """Return a model's ``arguments`` with those that moved in their groups."""
    class_name = class_path.rpartition(".")[2]
    found: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for name, value in arguments.items():
        if name in REMOVED.get(class_name, ()):
            continue
        group, _, inner = moved_argument(class_name, name).partition(".")
        if not inner or (name == group and isinstance(value, dict)):
            found[name] = value
        elif name != "train_size":  # taken from the data since
            groups.setdefault(group, {})[inner] = value
    for group, inner_arguments in groups.items():
        settings = OPTIMIZATIONS.get(class_name, "Optimization") if group == "optimization" else SETTINGS[group]
        spec = {"class_path": f"vqlab.{settings}", "init_args": inner_arguments}
        found[group] = spec if stored else {**found.get(group, {}), **inner_arguments}
    return found


def is_of_vqlab(cls: type) -> bool:
    """Whether a class is defined in vqlab, wherever else it is imported."""
    return cls.__module__.partition(".")[0] == "vqlab"


def _class_path(value: Any) -> str:
    return public_path(f"{type(value).__module__}.{type(value).__qualname__}")
