"""Adjust jsonargparse and Lightning for the command line, and translate the names of vqlab 0.1."""

import functools
import logging
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import yaml
from jsonargparse import _typehints as typehints
from jsonargparse import get_loader, set_loader

from vqlab.cli.arguments import values_of
from vqlab.experiments.settings import flatten
from vqlab.serialization import MOVED, current_config


@functools.cache
def adjust_parser() -> None:
    """Make jsonargparse 4.53 read null and integers as intended, and configurations of vqlab 0.1.

    It passes the null of a nested option, as in ``--model.quantizer.revive_after=null``, to the parser of the inner
    class as the text ``None``, which that parser refuses. And the ``typing`` module ignores the order of a union in its
    cache, so that Lightning's ``Union[int, float]`` becomes ``Union[float, int]``, and
    ``--trainer.limit_val_batches=1`` would mean 1.0, all batches.
    """
    load, sort = get_loader("yaml"), typehints.sort_subtypes_for_union

    def load_as_vqlab(text: str) -> Any:
        return None if isinstance(text, str) and text.strip() == "None" else current_config(load(text))

    def integers_first(*args: Any) -> list[Any]:
        kinds = list(sort(*args))
        if int in kinds and float in kinds[: kinds.index(int)]:
            kinds.remove(int)
            kinds.insert(kinds.index(float), int)
        return kinds

    set_loader("yaml", load_as_vqlab, (yaml.YAMLError,))
    typehints.sort_subtypes_for_union = integers_first


def quiet() -> None:
    """Hide advertisements and repeated hints of the libraries."""
    hidden = re.compile(r"💡|[THG]PU available|`Trainer.fit` stopped|tensorboardX|`weights_only` was|Seed set to")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(lambda record: not hidden.search(record.getMessage()))
    for message in (
        "does not have many workers",
        "`broadcast_buffers` is deprecated",  # torch 2.11 has no replacement
        "tensorboardX",
        "is smaller than the logging interval",
        r"module\(s\) in eval mode at the start of training",  # frozen modules
        "isinstance.treespec, LeafSpec",
        "Checkpoint directory .* exists and is not empty",
    ):
        warnings.filterwarnings("ignore", f".*{message}")


def with_current_options(args: Sequence[str], configs: Iterable[dict[str, Any]] = ()) -> list[str]:
    """Return ``args`` with the current names of the model's options; prints a line for each old name."""
    models = [flatten(config).get("model") for config in configs]
    models += values_of(args, "--model", "--model.class_path")
    chosen = str(next((model for model in reversed(models) if model), ""))
    moved = MOVED.get(chosen.rpartition(".")[2], {})
    current = []
    for arg in args:
        name, mark, rest = arg.partition("=")
        first, *inner = name.removeprefix("--model.").split(".")
        # A group may have the name of an old argument, such as ``adversarial``.
        is_group = bool(inner) and moved.get(first, "").startswith(f"{first}.")
        if name.startswith("--model.") and first in moved and not is_group:
            option = ".".join(["--model", moved[first], *inner])
            print(f"vqlab: {name} is now {option}", file=sys.stderr)
            arg = f"{option}{mark}{rest}"
        current.append(arg)
    return current
