"""What the command line sets in the libraries that it stands on, and how it reads the names of vqlab 0.1."""

import logging
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import yaml
from jsonargparse import _typehints as typehints
from jsonargparse import get_loader, set_loader

from vqlab.cli.config_files import values_of
from vqlab.experiments.settings import flatten
from vqlab.serialization import MOVED, current_config


def read_yaml_as_vqlab() -> None:
    """Make the parser read ``None`` as null, and configurations of vqlab 0.1 with the names of this version.

    jsonargparse 4.53 hands the null of a nested option, as in ``--model.quantizer.revive_after=null``, to the parser of
    the inner class as the text ``None``, and refuses it there.
    """
    load = get_loader("yaml")
    if load.__name__ != "load_as_vqlab":

        def load_as_vqlab(text: str) -> Any:
            return None if isinstance(text, str) and text.strip() == "None" else current_config(load(text))

        set_loader("yaml", load_as_vqlab, (yaml.YAMLError,))


def try_integers_first() -> None:
    """Make the parser read ``1`` as an integer wherever an option is an integer or a float.

    The ``typing`` module caches unions without regard to their order, so that Lightning's ``Union[int, float]`` arrives
    as ``Union[float, int]``, and ``--trainer.limit_val_batches=1`` would mean 1.0, all batches.
    """
    sort = typehints.sort_subtypes_for_union
    if sort.__name__ == "integers_first":
        return

    def integers_first(*args: Any) -> list[Any]:
        kinds = list(sort(*args))
        if int in kinds and float in kinds[: kinds.index(int)]:
            kinds.remove(int)
            kinds.insert(kinds.index(float), int)
        return kinds

    typehints.sort_subtypes_for_union = integers_first


def quiet() -> None:
    """Keep advertisements and repeated hints of the libraries off the screen."""
    hidden = re.compile(r"💡|[THG]PU available|`Trainer.fit` stopped|tensorboardX|`weights_only` was|Seed set to")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(lambda record: not hidden.search(record.getMessage()))
    for message in (
        "does not have many workers",
        "`broadcast_buffers` is deprecated",  # its successor is not in torch 2.11
        "tensorboardX",
        "is smaller than the logging interval",  # vqlab counts over epochs
        r"module\(s\) in eval mode at the start of training",  # frozen ones, on purpose
        "isinstance.treespec, LeafSpec",
        "Checkpoint directory .* exists and is not empty",
    ):
        warnings.filterwarnings("ignore", f".*{message}")


def with_current_options(args: Sequence[str], configs: Iterable[dict[str, Any]] = ()) -> list[str]:
    """Return ``args`` with the model's options under their current names; a line on stderr names those that moved.

    Example:
        >>> with_current_options(["fit", "--model=SGAN", "--model.clip_d=1", "--model.lr=0.1"])
        ['fit', '--model=SGAN', '--model.optimization.disc_clip=1', '--model.lr=0.1']
    """
    models = [flatten(config).get("model") for config in configs]
    models += values_of(args, "--model", "--model.class_path")
    model = next((model for model in reversed(models) if model), "")  # the last one
    moved = MOVED.get(str(model).rpartition(".")[2], {})
    current = []
    for arg in args:
        name, mark, rest = arg.partition("=")
        first, *inner = name.removeprefix("--model.").split(".")
        is_group = bool(inner) and moved.get(first, "").startswith(f"{first}.")  # a group is called as an argument was
        if name.startswith("--model.") and first in moved and not is_group:
            option = ".".join(["--model", moved[first], *inner])
            print(f"vqlab: {name} is now {option}", file=sys.stderr)
            arg = f"{option}{mark}{rest}"
        current.append(arg)
    return current
