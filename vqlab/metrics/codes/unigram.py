"""Code length of a sequence under the frequencies of each position: the baseline of a prior."""

from torch import Tensor


def unigram_bits(counts: Tensor, tokens: Tensor) -> Tensor:
    """Mean bits per token under the frequencies of each position, (count + 1) / (n + K), n counts per position.

    Args:
        counts: (L, K) integers, counts of each code at each position.
        tokens: (B, L) int64 in [0, K).

    Returns:
        Scalar float32.
    """
    seen = counts.gather(1, tokens.T).double()
    return -((seen + 1) / (counts.sum(1, keepdim=True) + counts.shape[1])).log2().mean().float()
