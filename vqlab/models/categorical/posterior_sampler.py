"""Settings of the Markov chains that sample the posterior of a categorical code."""

from dataclasses import dataclass
from typing import Literal

from vqlab.samplers.independence import KERNELS
from vqlab.validation import Count, NonNegativeInt, check_fields


@dataclass(frozen=True)
class PosteriorSampler:
    """Settings of the Markov chains that sample p(h | x), one per image.

    ``mis``, ``mis_rb`` and ``isir`` propose whole codes from q, all at once. ``mis`` is the kernel of the paper.
    ``mis_rb`` weights rejected proposals by their probability. ``isir`` draws the next state from all candidates at
    once (Markovian score climbing); with ``cache=false`` this is reweighted wake-sleep.

    ``block_mis``, ``ncg`` and ``gibbs`` change a few positions per step, for maps of codes, where whole proposals are
    rarely accepted; their steps are decoded one after the other. ``whole_steps`` of ``mis`` come first, which renew
    chains that the model has left behind; training uses the states after them. ``block_mis`` proposes from q. ``ncg``
    proposes by the gradient of ln p(x | h), see :func:`~vqlab.samplers.norm_constrained`; a step takes a forward and a
    backward pass, and its size is adapted in training to an acceptance rate of 0.4. ``gibbs`` decodes all K values of
    one position, so it is for a small K.

    Args:
        num_mis_steps: Steps per batch, L: proposals, or values drawn by ``gibbs``.
        kernel: ``mis``, ``mis_rb``, ``isir``, ``block_mis``, ``ncg`` or ``gibbs``.
        whole_steps: Proposals of whole codes before the steps of ``block_mis``, ``ncg`` or ``gibbs``.
        block_size: Positions per proposal of ``block_mis`` and ``ncg``, chosen at random. Default: 1 and 8.
        cache: Keep the chains' states, by the batch's ``index``.
        cache_start_epoch: First epoch with the cache, counted from 0.
        train_size: Number of training images. Default: taken from the data.

    Example:
        >>> PosteriorSampler(num_mis_steps=20, kernel="block_mis", block_size=2).cache
        True
    """

    num_mis_steps: Count = 10
    kernel: Literal["mis", "mis_rb", "isir", "block_mis", "ncg", "gibbs"] = "mis"
    whole_steps: NonNegativeInt = 10
    block_size: Count | None = None
    cache: bool = True
    cache_start_epoch: NonNegativeInt = 1
    train_size: Count | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def num_draws(self) -> int:
        """Number of rows of random numbers of a chain, one for each step and, for blocks, one for their order."""
        return self.num_mis_steps + (0 if self.kernel in KERNELS else 1 + self.whole_steps)
