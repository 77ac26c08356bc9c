"""The tokenizer of a second stage: which model it is, whether the data are those it was trained on, and its codes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.nn.image_format import ImageFormat
from vqlab.training.checkpoint import load

VERBS = ("encode", "decode", "quantizer", "images")


def find_tokenizer(source: Any) -> Any:
    """Return the model ``source``, or that of a checkpoint at this path; of a second stage its tokenizer.

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
    hint = "use the data that the tokenizer was trained on"
    if images.channels != own.channels:
        raise UserError(f"the data have {images.channels} channel(s), the tokenizer {own.channels}: {hint}")
    if images.size != own.size:
        raise UserError(f"image_size is {images.size}, the tokenizer's {own.size}: set image_size={own.size}")
    if images.value_range != own.value_range:
        kind, trained = images.value_range.kind, own.value_range.kind
        hint = hint if kind == trained else f"set value_range={trained}"
        raise UserError(f"value_range is {kind}, the tokenizer's {trained}: {hint}")


class CodeCache:
    """Codes by position in the data set, in CPU memory: 2 bytes a code up to K = 32,768, else 4.

    Grows with the largest position met; each process keeps what it has met itself.

    Example:
        >>> cache = CodeCache(512)
        >>> cache.get(torch.tensor([4, 0]), lambda: torch.tensor([[7, 8], [9, 511]])).tolist()
        [[7, 8], [9, 511]]
        >>> cache.get(torch.tensor([0]), lambda: 1 / 0).tolist()
        [[9, 511]]
    """

    def __init__(self, num_embeddings: int) -> None:
        self.dtype = torch.int16 if num_embeddings <= 2**15 else torch.int32
        self.codes = torch.empty(0, 0, dtype=self.dtype)  # (N, L); -1 where not known

    def get(self, index: Tensor, encode: Callable[[], Tensor]) -> Tensor:
        """Return the codes (B, L) int64 of positions ``index`` (B,), on its device.

        ``encode`` computes the codes of the whole batch; it is called if one of them is not known.
        """
        place = index.cpu()
        last, have = int(place.max()), len(self.codes)
        if last < have:
            known = self.codes[place]
            if bool((known >= 0).all()):
                return known.to(index.device).long()
        codes = encode()
        if last >= have:
            more = torch.full((max(last + 1, 2 * have) - have, codes.shape[1]), -1, dtype=self.dtype)
            self.codes = torch.cat([self.codes.view(have, codes.shape[1]), more])
        self.codes[place] = codes.to("cpu", self.dtype)
        return codes
