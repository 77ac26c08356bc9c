"""Find the tokenizer of a second stage, and check that the data are what it was trained on."""

from pathlib import Path
from typing import Any

from vqlab.errors import UserError
from vqlab.nn.image_format import ImageFormat
from vqlab.training.checkpoint import load

VERBS = ("encode", "decode", "quantizer", "images")


def find_tokenizer(source: Any) -> Any:
    """Return the model that turns images to codes and back: ``source`` itself, or what a checkpoint at that path holds.

    A second stage's checkpoint serves as well: its tokenizer is taken.

    Raises:
        UserError: If there is none, or it lacks ``encode``, ``decode``, a quantizer or the format of its images.
    """
    if source is None:
        raise UserError(
            "tokenizer must be a trained model or the path of its checkpoint, runs/vqvae/.../best.ckpt, got None"
        )
    model: Any = load(source) if isinstance(source, (str, Path)) else source
    if hasattr(model, "tokenizer"):
        model = model.tokenizer.net
    if missing := [name for name in VERBS if not hasattr(model, name)]:
        raise UserError(
            f"{type(model).__name__} is no tokenizer, it has no {', '.join(missing)}: set tokenizer to a "
            "checkpoint of a VQVAE or the like"
        )
    return model


def check_data(tokenizer: Any, images: ImageFormat | None) -> None:
    """Raise UserError if the data's format, where it is known, is not that of the ``tokenizer``."""
    own: ImageFormat = tokenizer.images
    if images is None:
        return
    if images.channels != own.channels:
        raise UserError(
            f"the data have {images.channels} channel(s), the tokenizer {own.channels}: use the data that it was "
            "trained on"
        )
    if images.size != own.size:
        raise UserError(f"image_size is {images.size}, the tokenizer's {own.size}: set image_size={own.size}")
    if images.value_range != own.value_range:
        kinds = images.value_range.kind, own.value_range.kind
        hint = (
            "use the data that the tokenizer was trained on" if kinds[0] == kinds[1] else f"set value_range={kinds[1]}"
        )
        raise UserError(f"value_range is {kinds[0]}, the tokenizer's {kinds[1]}: {hint}")
