"""The codes of a data set, kept after they were computed once."""

from collections.abc import Callable

import torch
from torch import Tensor


class CodeCache:
    """Codes by position in the data set, in CPU memory: 2 bytes a code up to K = 32,768, else 4.

    Grows with the largest position met, so it needs no size; each process keeps what it has met itself.

    Args:
        num_embeddings: Codes of a codebook, K.

    Example:
        >>> cache = CodeCache(512)
        >>> calls = []
        >>> def encode():
        ...     calls.append(1)
        ...     return torch.tensor([[7, 8], [9, 511]])
        >>> cache.get(torch.tensor([4, 0]), encode).tolist(), cache.get(torch.tensor([0]), encode).tolist(), len(calls)
        ([[7, 8], [9, 511]], [[9, 511]], 1)
    """

    def __init__(self, num_embeddings: int) -> None:
        self.dtype = torch.int16 if num_embeddings <= 2**15 else torch.int32
        self.codes: Tensor | None = None  # (N, L); -1 where not known

    def get(self, index: Tensor, encode: Callable[[], Tensor]) -> Tensor:
        """Return the codes (B, L) int64 of positions ``index`` (B,), on its device.

        Args:
            index: Positions in the data set.
            encode: Computes the codes (B, L) of the whole batch; called if one of them is not known.
        """
        place = index.cpu()
        if self.codes is not None and int(place.max()) < len(self.codes):
            known = self.codes[place]
            if bool((known >= 0).all()):
                return known.to(index.device).long()
        codes = encode()
        self._reserve(int(place.max()) + 1, codes.shape[1])
        assert self.codes is not None
        self.codes[place] = codes.to("cpu", self.dtype)
        return codes

    def _reserve(self, count: int, length: int) -> None:
        have = 0 if self.codes is None else len(self.codes)
        if count > have:
            more = torch.full((max(count, 2 * have) - have, length), -1, dtype=self.dtype)
            self.codes = more if self.codes is None else torch.cat([self.codes, more])
