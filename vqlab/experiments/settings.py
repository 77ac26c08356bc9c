"""Settings of a run by dotted name, such as ``model.quantizer.num_embeddings``."""

import json
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from vqlab.errors import UserError

Settings = dict[str, Any]

# Settings that count training steps, unlike ``num_mis_steps``.
STEP_COUNTS = {"max_steps", "val_check_interval", "warmup_steps", "total_steps", "decay_steps"}
STEP_COUNTS |= {"disc_start", "disc_warmup", "self_training_start", "grace_steps", "gan_grace_steps"}
# Prefixes of settings that do not change a run's metrics.
HARMLESS: tuple[str, ...] = ("name", "note", "runs", "codes", "font", "family", "wandb.", "tensorboard", "samples.")
HARMLESS += ("trainer.enable_", "trainer.accelerator", "data.num_workers", "checkpoint.every_n_steps")
MAX_VALUES = 100_000  # in a config


class UniqueKeys(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML loader that refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Raise ConstructorError for a duplicate key."""
        counts = Counter(str(key.value) for key, _ in node.value)
        if counts and (most := counts.most_common(1)[0])[1] > 1:
            raise yaml.constructor.ConstructorError(None, None, f"{most[0]} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file; raises UserError if it cannot be read, is not valid YAML, or is not a mapping."""
    try:
        return parse_yaml(path.read_bytes(), path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the path") from error


def parse_yaml(content: bytes, path: Path) -> dict[str, Any]:
    """Return the mapping in the ``content`` of a YAML file; raises UserError as :func:`read_yaml`."""
    try:
        found = yaml.load(content.decode("utf-8-sig"), UniqueKeys)
        check_size(found)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = f"line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else " ".join(str(error).split())
        raise UserError(f"{path} is not valid YAML: {problem}"[:300]) from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no settings: it must be a mapping such as model: VQVAE, got {found!r}"[:200])
    return found


def check_size(value: Any) -> None:
    """Raise ValueError for a value with too many parts; with YAML aliases, a short text can be very large."""
    parts, count = [value], 0
    while parts:
        part = parts.pop()
        if isinstance(part, (dict, list)):
            parts += part.values() if isinstance(part, dict) else part
            count += len(part)
            if count > MAX_VALUES:
                raise ValueError("it holds too many values")


def flatten(config: dict[str, Any], prefix: str = "") -> Settings:
    """Return the settings of a config by dotted name, classes without their module."""
    flat: Settings = {}
    for key, value in config.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if key == "class_path" and prefix:
            flat[prefix] = str(value).rpartition(".")[2]
        elif isinstance(value, dict) and value:
            flat |= flatten(value, prefix if key == "init_args" else name)
        else:
            flat[name] = value
    return flat


def overlay(settings: Settings, *layers: dict[str, Any]) -> Settings:
    """Return ``settings`` updated with configs or options; a new class removes the options of the old one."""
    for layer in layers:
        for name, value in in_order(flatten(layer)).items():
            if name not in settings or not equal(value, settings[name]):
                settings = {key: v for key, v in settings.items() if key != name and not key.startswith(f"{name}.")}
            settings = {**settings, name: value}
    return settings


def stack(*layers: Settings) -> Settings:
    """Return options in the order that the parser needs; the last value of a name replaces the others."""
    stacked: Settings = {}
    for layer in layers:
        stacked = {name: value for name, value in stacked.items() if name not in layer} | in_order(layer)
    return stacked


def in_order(options: Settings) -> Settings:
    """Return options sorted so that each class comes before its own options."""
    return dict(sorted(options.items(), key=lambda item: item[0].count(".")))


def as_flag(name: str, value: Any) -> str:
    """Return a setting as a command-line option."""
    return f"--{name}={value if isinstance(value, str) else json.dumps(value)}"


def as_text(value: Any) -> str:
    """Return a setting for a table."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value, default=str)


def equal(a: Any, b: Any) -> bool:
    """Return whether two values of a setting are equal; one may be text, or name the module of a class."""
    a, b = parsed(a), parsed(b)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, str) and isinstance(b, str):
        return a == b or a.rpartition(".")[2] == b or a == b.rpartition(".")[2]
    return a == b


def parsed(value: Any) -> Any:
    """Return the value of text in YAML; 1e-3 is a number, unlike in YAML 1.1."""
    if not isinstance(value, str):
        return value
    for read in (int, float, yaml.safe_load):
        try:
            return read(value)
        except (ValueError, yaml.YAMLError):
            continue
    return value


def scale_steps(settings: Settings, factor: float) -> Settings:
    """Return the settings that count training steps, multiplied by ``factor``, rounded, at least 1."""
    return {
        name: max(1, round(value * factor))
        for name, value in settings.items()
        if name.rpartition(".")[2] in STEP_COUNTS and type(value) is int and value > 0
    }
