"""Load a model from any vqlab checkpoint, without knowing its class and without running code from the file."""

import pickle
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch

from vqlab.errors import UserError, read_error
from vqlab.experiments.checkpoint_header import require_file
from vqlab.serialization import current_config, find_class, from_config
from vqlab.training.data_format import ENTRY, stored_format
from vqlab.validation import InvalidArgument

# Entries of a checkpoint that Lightning needs to resume a run.
RESUMED = {"loops": dict, "callbacks": dict, "optimizer_states": list, "lr_schedulers": list}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; raise UserError if it is damaged or contains pickled code, which is never run."""
    path = require_file(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"checkpoint {path} holds Python objects that vqlab refuses to unpickle") from None
    except Exception as error:  # torch's unpickler may raise anything on damaged bytes
        message = f"checkpoint {path} is damaged or no checkpoint ({_reason(error)}): use another file"
        raise read_error(f"checkpoint {path}", error, message) from None
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise UserError(f"{path} is not a Lightning checkpoint (no state_dict): give a .ckpt file of a vqlab run")
    return checkpoint


def load(path: str | Path, **parts: Any) -> lightning.LightningModule:
    """Load the model of a checkpoint, in eval mode on the CPU.

    Args:
        path: A ``.ckpt`` file written by the command line or by a Trainer in a notebook.
        **parts: Constructor arguments that replace the stored ones, such as ``encoder=`` for your own network.

    Raises:
        UserError: If the file is no vqlab checkpoint, or its weights do not fit the model that it describes.

    Example:
        >>> import vqlab
        >>> model = vqlab.load("runs/vqvae/first/checkpoints/best.ckpt")  # doctest: +SKIP
    """
    checkpoint = read_checkpoint(path)
    stored = hyper_parameters(checkpoint)
    class_path = stored.pop("_class_path", None)
    if not isinstance(class_path, str):
        raise UserError(f"{path} was not made by a vqlab model: load it with the class that made it")
    cls = find_class(class_path)
    if not issubclass(cls, lightning.LightningModule):
        raise UserError(f"{path} names {class_path}, which is no LightningModule: refused")
    try:
        model = cls(**{name: from_config(spec) for name, spec in stored.items() if name not in parts}, **parts)
    except Exception as error:  # invalid arguments may raise anything in a constructor
        if isinstance(error, UserError) and not isinstance(error, InvalidArgument):
            raise
        raise UserError(f"{path} describes a {cls.__name__} that this vqlab cannot build ({_reason(error)})") from error
    load_weights(model, checkpoint["state_dict"], path)
    if (trained_on := stored_format(checkpoint)) is not None:
        setattr(model, ENTRY, trained_on)  # for the comparison with other data in a Trainer
    return model.eval()


def load_weights(model: torch.nn.Module, state_dict: dict[str, Any], path: str | Path) -> None:
    """Load ``state_dict`` strictly, or raise UserError with the first differing key or shape."""
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        found = f"{path} does not fit this {type(model).__name__}: {lines[0][:160]}{more}"
        raise UserError(f"{found}: use the configuration that the checkpoint was trained with") from None


def hyper_parameters(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the constructor arguments that a checkpoint stores, if any."""
    stored = checkpoint.get("hyper_parameters")
    return current_config(stored, stored=True) if isinstance(stored, dict) else {}


def check_resumable(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Raise UserError if ``checkpoint`` lacks what a resumed run needs besides the weights."""
    missing = [name for name in ("epoch", "global_step") if not is_count(checkpoint.get(name))]
    missing += [name for name, kind in RESUMED.items() if not isinstance(checkpoint.get(name), kind)]
    if missing:
        raise UserError(f"{path} has no {', no '.join(missing)} to resume from: use another checkpoint of the run")


def is_count(value: Any) -> bool:
    """Whether ``value`` is a number of steps, a non-negative int64."""
    return type(value) is int and 0 <= value < 2**63


@contextmanager
def refusing_damage(path: str | Path | None) -> Iterator[None]:
    """Convert an error of Lightning while it restores a run from the checkpoint ``path`` to a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a damaged entry may raise anything
        frames = traceback.extract_tb(error.__traceback__)
        if path is None or not any(frame.filename.endswith("checkpoint_connector.py") for frame in frames):
            raise
        hint = "resume from another checkpoint of the run"
        raise UserError(f"{path} cannot be resumed ({_reason(error)}): {hint}") from error


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]
