"""Stop at the first loss that is NaN or infinite, before it changes the weights."""

import torch
import torch.distributed as dist
from torch import Tensor

from vqlab.errors import UserError
from vqlab.nn.distributed import world_size


class NonFiniteError(UserError):
    """The loss ``terms`` are NaN or infinite."""

    def __init__(self, terms: list[str], batch_idx: int, step: int) -> None:
        self.terms, self.batch_idx, self.step = terms, batch_idx, step
        super().__init__(
            f"{', '.join(terms)} is NaN or infinite at batch {batch_idx} (step {step}), which did not change the "
            f"weights: lower --model.lr, or inspect the data of this batch"
        )


def require_finite(terms: dict[str, Tensor], batch_idx: int, step: int) -> None:
    """Raise :class:`NonFiniteError` on all ranks if a term (scalar tensor) is not finite on one; all must call it."""
    bad = ~torch.stack([term.detach().float() for term in terms.values()]).isfinite()
    if world_size() > 1:
        bad = bad.to(torch.uint8)
        dist.all_reduce(bad, op=dist.ReduceOp.MAX)
    names = [name for name, is_bad in zip(terms, bad.tolist(), strict=True) if is_bad]
    if names:
        raise NonFiniteError(names, batch_idx, step)
