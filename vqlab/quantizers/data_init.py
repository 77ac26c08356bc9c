"""Whether a quantizer has seen the batch that it sets itself up from."""

import torch
from torch import Tensor, nn


class DataInit(nn.Module):
    """A flag that a checkpoint keeps, with a plain-Python copy: reading a buffer would wait for the GPU every time.

    Args:
        awaited: False if nothing is to be set up.
    """

    seen: Tensor

    def __init__(self, awaited: bool = True) -> None:
        super().__init__()
        self.register_buffer("seen", torch.tensor(not awaited))
        self.awaited = awaited
        self.register_load_state_dict_post_hook(_read)  # no lambda: it could not be pickled

    def done(self) -> None:
        """Note that the set-up is done."""
        self.seen.fill_(True)
        self.awaited = False


def _read(flag: DataInit, _: object) -> None:
    flag.awaited = not bool(flag.seen)
