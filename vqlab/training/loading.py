"""Get a model back from any vqlab checkpoint, without knowing its class and without running code from the file."""

import pickle
from pathlib import Path
from typing import Any

import lightning
import torch

from vqlab.errors import UserError
from vqlab.nn.rebuild import find_class, from_spec, to_spec


def remember_arguments(module: Any) -> None:
    """Store the constructor's arguments in the module's hyperparameters, as plain data that a checkpoint may hold."""
    spec = to_spec(module)
    module.save_hyperparameters({"_class_path": spec["class_path"], **spec["init_args"]})


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU with ``weights_only=True``: pickled code in it is refused, never run.

    Raises:
        UserError: If the file is missing, truncated, no checkpoint, or holds anything but plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist: look under runs/<model>/<name>/checkpoints/")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"checkpoint {path} holds Python objects that vqlab refuses to unpickle, or is damaged"
        ) from None
    except Exception as error:  # torch's unpickler raises whatever the damaged bytes lead it to
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise UserError(f"checkpoint {path} is damaged or no checkpoint ({reason}): use another file") from None
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(
            f"{path} is not a Lightning checkpoint (it has no state_dict): give a .ckpt file of a vqlab run"
        )
    return checkpoint


def load(path: str | Path, **parts: Any) -> lightning.LightningModule:
    """Load the model of a checkpoint, in eval mode on the CPU.

    Args:
        path: A ``.ckpt`` file written by the command line or by a Trainer in a notebook.
        **parts: Constructor arguments that replace the stored ones, such as ``encoder=`` for a network of your own.

    Raises:
        UserError: If the file is no vqlab checkpoint, or its weights do not fit the model that it describes.

    Example:
        >>> import vqlab
        >>> model = vqlab.load("runs/vqvae/first/checkpoints/best.ckpt")  # doctest: +SKIP
    """
    checkpoint = read_checkpoint(path)
    stored = dict(checkpoint.get("hyper_parameters") or {})
    class_path = stored.pop("_class_path", None)
    if not isinstance(class_path, str):
        raise UserError(f"{path} was not made by a vqlab model: load it with the class that made it")
    cls = find_class(class_path)
    if not issubclass(cls, lightning.LightningModule):
        raise UserError(f"{path} names {class_path}, which is no LightningModule: refused")
    try:
        model = cls(**{name: from_spec(spec) for name, spec in stored.items() if name not in parts}, **parts)
    except TypeError as error:
        raise UserError(f"{path} describes a {cls.__name__} that this vqlab cannot build ({error})") from error
    load_weights(model, checkpoint["state_dict"], path)
    return model.eval()


def load_weights(model: torch.nn.Module, state_dict: dict[str, Any], path: str | Path) -> None:
    """Load ``state_dict`` strictly.

    Raises:
        UserError: With the first differing keys or shapes.
    """
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        raise UserError(
            f"{path} does not fit this {type(model).__name__}: {lines[0][:160]}{more}: "
            "use the configuration that the checkpoint was trained with"
        ) from None
