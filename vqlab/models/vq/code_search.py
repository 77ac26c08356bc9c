"""Codes chosen by what the decoder makes of them, not by the distance of features alone."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vqlab.errors import UserError
from vqlab.quantizers import VectorQuantizer

SPACING = 3  # positions tried at once are this far apart, so that their neighbourhoods of 3x3 positions are disjoint


@torch.no_grad()
def search_codes(model: Any, x: Tensor, candidates: int = 4, passes: int = 2) -> Tensor:
    """Encode images by trying codes in the decoder (analysis by synthesis); return indices (B, h, w).

    The code nearest to a feature is not always the best one for the image. Each pass visits all positions, decodes each
    image with each of the ``candidates`` nearest codes there, and keeps the one with the smallest squared error of the
    pixels at the 3x3 positions around. An image keeps its old codes where the error of all its pixels would rise, so
    that more passes never make it worse. The cost is about 9 x ``candidates`` x ``passes`` decodings.

    Args:
        model: A VQVAE with a ``VectorQuantizer``.
        x: Images (B, C, H, W) in the value range of the model.
        candidates: Nearest codes that are tried; 1 is ``encode``.
        passes: Visits of each position.

    Raises:
        UserError: If the quantizer is another one, or ``candidates`` is out of range.

    Example:
        >>> from vqlab.models import VQVAE, search_codes
        >>> model, x = VQVAE().eval(), torch.rand(2, 3, 32, 32) * 2 - 1
        >>> plain, searched = (model.decode(codes) for codes in (model.encode(x), search_codes(model, x)))
        >>> bool(((searched - x) ** 2).sum() <= ((plain - x) ** 2).sum())
        True
    """
    quantizer = model.quantizer
    if not isinstance(quantizer, VectorQuantizer):
        raise UserError(f"the search of codes needs a VectorQuantizer, got a {type(quantizer).__name__}: use encode")
    if not 1 <= candidates <= quantizer.num_embeddings:
        raise UserError(f"candidates must be from 1 to the {quantizer.num_embeddings} codes, got {candidates}")
    nearest = nearest_codes(quantizer, model.to_code(model.encoder(x)), candidates)
    image, size = model.value_range.decode(x), model.decoder.upsampling

    def errors_of(codes: Tensor) -> Tensor:
        """Return the mean squared error of the pixels of each position (B, h, w)."""
        x_hat = model.value_range.decode(model.decode(codes).float())
        return F.avg_pool2d((x_hat - image).square().mean(1, keepdim=True), size)[:, 0]

    codes = nearest[..., 0]
    errors = errors_of(codes)
    rows, columns = (torch.arange(length, device=x.device) for length in codes.shape[1:])
    for number in range(passes if candidates > 1 else 0):
        for first in range(SPACING**2):
            row, column = divmod(first, SPACING)
            tried = (rows[:, None] % SPACING == row) & (columns % SPACING == column)
            best, chosen = around(errors), codes
            for candidate in nearest.unbind(-1)[number == 0 :]:  # the first pass starts at the nearest codes
                error = around(errors_of(torch.where(tried, candidate, codes)))
                better = tried & (error < best)
                best, chosen = torch.where(better, error, best), torch.where(better, candidate, chosen)
            new = errors_of(chosen)
            improved = (new.sum((1, 2)) < errors.sum((1, 2)))[:, None, None]
            codes, errors = torch.where(improved, chosen, codes), torch.where(improved, new, errors)
    return codes


def nearest_codes(quantizer: VectorQuantizer, z: Tensor, number: int) -> Tensor:
    """Return the ``number`` nearest codes (B, h, w, number) of features (B, D, h, w), the nearest first."""
    vectors, codes = (quantizer.bound(rows.float()) for rows in (z.movedim(1, -1), quantizer.codebook))
    distances = torch.cdist(vectors.flatten(0, 2), codes)
    return distances.topk(number, largest=False).indices.view(*vectors.shape[:3], number)


def around(errors: Tensor) -> Tensor:
    """Return the mean over the 3x3 positions around each of (B, h, w), zeros outside."""
    return F.avg_pool2d(errors[:, None], 3, 1, 1)[:, 0]
