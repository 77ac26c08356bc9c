"""The tokenizer of a prior: accepted models and data, and the cache of its codes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.nn import ImageFormat
from vqlab.training import load

TOKENIZER = ("encode", "decode", "quantizer", "images")  # attributes of a tokenizer


def find_tokenizer(source: Any) -> Any:
    """Return the model ``source``, or that of a checkpoint at this path; of a prior its tokenizer."""
    if source is None:
        raise UserError("tokenizer must be a trained model or a checkpoint such as runs/vqvae/.../best.ckpt, got None")
    model: Any = load(source) if isinstance(source, (str, Path)) else source
    if hasattr(model, "tokenizer"):
        model = model.tokenizer.net
    if missing := [name for name in TOKENIZER if not hasattr(model, name)]:
        found = f"{type(model).__name__} is no tokenizer, it has no {', '.join(missing)}"
        raise UserError(f"{found}: set tokenizer to a checkpoint of a VQVAE, VQGAN or JSA")
    return model


def check_data(tokenizer: Any, images: ImageFormat | None) -> None:
    """Raise UserError if the data's format, if it is known, is not that of the ``tokenizer``."""
    own: ImageFormat = tokenizer.images
    if images is None:
        return
    for name, given, trained, hint in (
        ("channels", images.channels, own.channels, "use the data that it was trained on"),
        ("image_size", images.size, own.size, f"set image_size={own.size}"),
        ("value_range", images.value_range.kind, own.value_range.kind, f"set value_range={own.value_range.kind}"),
        ("value_range", images.value_range, own.value_range, "use the data that it was trained on"),
    ):
        if given != trained:
            raise UserError(f"{name} is {given}, the tokenizer's is {trained}: {hint}")


class CodeCache:
    """Codes by position in the data set, in CPU memory: 2 bytes per code up to K = 32,768, otherwise 4."""

    def __init__(self, num_embeddings: int) -> None:
        self.dtype = torch.int16 if num_embeddings <= 2**15 else torch.int32
        self.codes = torch.empty(0, 0, dtype=self.dtype)  # (N, L); -1 where unknown

    def get(self, index: Tensor, encode: Callable[[], Tensor]) -> Tensor:
        """Return the codes (B, L) int64 of positions ``index`` (B,); call ``encode`` for them if one is unknown."""
        place = index.cpu()
        size, length = int(place.max()) + 1, len(self.codes)
        if size <= length and bool((self.codes[place] >= 0).all()):
            return self.codes[place].to(index.device).long()
        codes = encode()
        if size > length:
            more = torch.full((max(size, 2 * length) - length, codes.shape[1]), -1, dtype=self.dtype)
            self.codes = torch.cat([self.codes.view(length, codes.shape[1]), more])
        self.codes[place] = codes.to("cpu", self.dtype)
        return codes
