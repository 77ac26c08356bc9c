"""Find the tokenizer of a second stage, and check that the data are what it was trained on."""

from pathlib import Path
from typing import Any, Literal

from vqlab.errors import UserError
from vqlab.nn.value_range import ValueRange
from vqlab.training.checkpoint import load

VERBS = ("encode", "decode", "quantizer", "channels", "image_size", "value_range")


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
            f"{type(model).__name__} is no tokenizer, it has no {', '.join(missing)}: set --model.tokenizer to a "
            "checkpoint of a VQVAE or the like"
        )
    return model


def check_data(
    tokenizer: Any,
    channels: int | None,
    image_size: int | None,
    value_range: ValueRange | Literal["unit", "signed"] | None,
) -> None:
    """Raise UserError if the data's format, where it is known, is not that of the ``tokenizer``.

    Args:
        tokenizer: Model with ``channels``, ``image_size`` and ``value_range``.
        channels: Channels of the data; null is not known, here and below.
        image_size: Height and width of the data's images.
        value_range: A ``ValueRange`` or its kind.
    """
    if channels not in (None, tokenizer.channels):
        raise UserError(
            f"the data have {channels} channel(s), the tokenizer {tokenizer.channels}: "
            "set --data to what the tokenizer was trained on"
        )
    if image_size not in (None, tokenizer.image_size):
        raise UserError(
            f"the data have images of size {image_size}, the tokenizer of {tokenizer.image_size}: "
            f"set --data.image_size={tokenizer.image_size}"
        )
    mine, theirs = tokenizer.value_range, ValueRange(value_range) if isinstance(value_range, str) else value_range
    if theirs not in (None, mine):
        same_kind = mine.kind == theirs.kind  # standardized by other statistics
        mend = "--data to what the tokenizer was trained on" if same_kind else f"--data.value_range={mine.kind}"
        raise UserError(f"the data's value range is {theirs.kind}, the tokenizer's {mine.kind}: set {mend}")
