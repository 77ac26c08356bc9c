"""Nearest-code search that is exact in float32 and never holds an N x K array."""

import torch
from torch import Tensor

BLOCK_ELEMENTS = {"cpu": 2**21, "cuda": 2**26}  # scores held at once: 8 MiB on a CPU, 256 MiB on a GPU


@torch.no_grad()
def nearest_code(z: Tensor, codebook: Tensor) -> Tensor:
    """Return argmin_k |z_n - e_k|^2 as (N,) int64 for rows ``z`` (N, D), ``codebook`` (K, D); ties go to the lowest k.

    |z|^2 is the same for every code and is left out: kept in, its rounding error hides the differences between small
    codes. The codebook's mean is subtracted from both sides for the same reason when everything lies far from the
    origin. -|e|^2 / 2 is folded into the product as one more column.

    Example:
        >>> nearest_code(torch.tensor([[0.9, 0.2]]), torch.tensor([[0.0, 0.0], [1.0, 0.0]])).tolist()
        [1]
    """
    with torch.autocast(z.device.type, enabled=False):
        center = codebook.mean(0)
        codes = codebook - center
        bias = -0.5 * codes.square().sum(1, keepdim=True)
        weight = torch.cat([codes, bias], 1).T  # (D + 1, K)
        block = max(1, BLOCK_ELEMENTS.get(z.device.type, 2**21) // len(codebook))
        indices = torch.empty(len(z), dtype=torch.int64, device=z.device)
        for start in range(0, len(z), block):
            rows = z[start : start + block] - center
            rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
            indices[start : start + block] = (rows @ weight).argmax(1)
    return indices
