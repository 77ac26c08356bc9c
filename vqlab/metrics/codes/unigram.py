"""Code length of a sequence under the frequencies of each position: the baseline of a prior."""

from torch import Tensor


def unigram_bits(counts: Tensor, tokens: Tensor) -> Tensor:
    """Mean bits per token (B, L) under (count + 1) / (n + K), from ``counts`` (L, K) of n codes a position."""
    seen = counts.gather(1, tokens.T).double()
    return -((seen + 1) / (counts.sum(1, keepdim=True) + counts.shape[1])).log2().mean().float()
