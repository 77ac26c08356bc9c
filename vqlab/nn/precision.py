"""Numbers that are to be computed in float32 at least, under any autocast."""

import torch
from torch import Tensor


def precise(x: Tensor) -> Tensor:
    """Return half-precision ``x`` as float32, and float32 or float64 as it is.

    Example:
        >>> precise(torch.ones(1, dtype=torch.bfloat16)).dtype, precise(torch.ones(1, dtype=torch.float64)).dtype
        (torch.float32, torch.float64)
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))
