"""Binary codes without a codebook: lookup-free and binary spherical quantization."""

import math
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vqlab.nn.distributed import mean_over_ranks
from vqlab.nn.precision import float_dtype
from vqlab.quantizers.base import Quantizer, QuantizerOutput
from vqlab.quantizers.search import entropy, finite_rows, in_chunks, unit
from vqlab.validation import NonNegative, Positive, Range

Bits = Annotated[int, Range(1, 62)]  # an index is int64


class LookupFree(Quantizer):
    """Keep the sign of each of D channels, K = 2^D codes with entries -1 and 1 (LFQ, MAGVIT-v2, arXiv:2310.05737).

    loss = entropy_weight * (E[H(q(c|z))] - diversity_weight * H(E[q(c|z)])) + commitment_weight * mean |z - sg(c)|^2
    (equations 5 and 6), expectations over the global batch; q(c|z) is proportional to exp(-|z - c|^2 / temperature).
    The first entropy is a sum over channels; a sum over groups of channels bounds the second from above.

    Args:
        embedding_dim: Channels, D, one bit each; for more than 62 bits use a ``ProductQuantizer``.
        entropy_weight: Weight of the entropy terms.
        diversity_weight: Weight of the batch entropy within them.
        commitment_weight: Weight of the commitment loss.
        temperature: Temperature of q(c|z).
        group_size: Channels per group of the batch entropy; memory grows with 2^group_size.

    Example:
        >>> LookupFree(3).encode(torch.tensor([[1.0, -1.0, 1.0]])).item()  # bit i is set where channel i is positive
        5
    """

    residual_gain = 2.0  # the residual of a bit has half its range
    scale = 1.0  # magnitude of an entry of a code

    def __init__(
        self,
        embedding_dim: Bits = 10,
        entropy_weight: NonNegative = 0.1,
        diversity_weight: NonNegative = 1.0,
        commitment_weight: NonNegative = 0.25,
        temperature: Positive = 1.0,
        group_size: Annotated[int, Range(1, 16)] = 8,
    ) -> None:
        super().__init__()
        self.embedding_dim, self.num_embeddings = embedding_dim, 2**embedding_dim
        self.entropy_weight, self.diversity_weight = entropy_weight, diversity_weight
        self.commitment_weight, self.temperature = commitment_weight, temperature
        self.num_groups = math.ceil(embedding_dim / group_size)

    def quantize(self, rows: Tensor) -> QuantizerOutput:
        bits = rows.detach() > 0
        codes = torch.where(bits, self.scale, -self.scale).to(rows.dtype)
        indices = (bits.long() << torch.arange(self.embedding_dim, device=rows.device)).sum(1)
        commitment = F.mse_loss(rows, codes)
        sample_entropy, batch_entropy = self._entropies(rows)
        loss = self.entropy_weight * (sample_entropy - self.diversity_weight * batch_entropy)
        loss = loss + self.commitment_weight * commitment
        terms = {"commitment_loss": commitment, "sample_entropy": sample_entropy, "batch_entropy": batch_entropy}
        terms = {name: term.detach() for name, term in terms.items()}
        return QuantizerOutput(self.estimate(rows, codes), indices, loss, terms)

    def lookup(self, indices: Tensor) -> Tensor:
        bits = indices[..., None] >> torch.arange(self.embedding_dim, device=indices.device) & 1
        return torch.where(bits.bool(), self.scale, -self.scale).to(float_dtype())

    def _entropies(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return E[H(q(c|z))] and the sum over groups of H(E[q(c_group|z)]), in nats."""
        logits = 4 * self.scale / self.temperature * rows  # |z + s|^2 - |z - s|^2 = 4 s z
        per_bit = F.softplus(logits) - logits * logits.sigmoid()  # entropy of a Bernoulli variable by its logit
        batch_entropy = rows.new_zeros(())
        for group in torch.where(finite_rows(logits), logits, 0).tensor_split(self.num_groups, 1):
            sums = in_chunks(lambda block: (_joint(block).sum(0),), 2 ** group.shape[1], group)
            probs = torch.stack([block for (block,) in sums]).sum(0) / rows.shape[0]  # torch.export would fix len(rows)
            batch_entropy = batch_entropy + entropy(mean_over_ranks(probs) if self.training else probs)
        return per_bit.sum(1).mean(), batch_entropy


class BinarySpherical(LookupFree):
    """Normalise, then keep the signs: codes with entries +-1/sqrt(D) on the unit sphere (BSQ, arXiv:2406.07548).

    Distances are bounded, so no commitment loss is needed (section 4.1). Further arguments are those of
    :class:`LookupFree`; ``diversity_weight`` is gamma in the paper, and ``temperature`` 1 / tau.

    Args:
        embedding_dim: Channels, D, one bit each.
        commitment_weight: Weight of the commitment loss.

    Example:
        >>> BinarySpherical(16)(torch.randn(2, 16, 8, 8)).quantized.norm(dim=1).unique().tolist()
        [1.0]
    """

    def __init__(self, embedding_dim: Bits = 10, commitment_weight: NonNegative = 0.0, **common: Any) -> None:
        super().__init__(embedding_dim, commitment_weight=commitment_weight, **common)
        self.scale = 1 / math.sqrt(embedding_dim)

    def bound(self, rows: Tensor) -> Tensor:
        return unit(rows)


def _joint(logits: Tensor) -> Tensor:
    """Return the probabilities (N, 2^g) of all settings of g independent bits with ``logits`` (N, g)."""
    probs = torch.ones_like(logits[:, :1])
    for bit in logits.unbind(1):
        probs = torch.cat([probs * (-bit).sigmoid()[:, None], probs * bit.sigmoid()[:, None]], 1)  # lowest bit fastest
    return probs
