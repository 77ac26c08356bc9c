"""What the command line sets in the libraries that it stands on."""

import logging
import re
import warnings
from typing import Any

import yaml
from jsonargparse import _typehints as typehints
from jsonargparse import get_loader, set_loader

from vqlab.serialization import current_config


def read_none_as_null() -> None:
    """Make the parser read ``None`` as null.

    jsonargparse 4.53 hands the null of a nested option, as in ``--model.quantizer.revive_after=null``, to the parser of
    the inner class as the text ``None``, and refuses it there.
    """
    load = get_loader("yaml")
    if load.__name__ != "load_with_none":

        def load_with_none(text: str) -> Any:
            return None if isinstance(text, str) and text.strip() == "None" else current_config(load(text))

        set_loader("yaml", load_with_none, (yaml.YAMLError,))


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

    class Hide(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            return not hidden.search(record.getMessage())

    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(Hide())
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
